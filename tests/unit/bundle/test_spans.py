"""Where values stand in a message, and what a place says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.spans import bare_offsets, find_places, negate, read_place, span_types, types_of

TEXT = frozenset({"string"})
INTEGER = frozenset({"integer"})
NUMBER = frozenset({"number"})


def found(message: str, value: Any, types: frozenset[str] = TEXT) -> list[str]:
    """What stands before each place and in it."""
    return [f"{message[:start]}[{message[start:end]}]" for start, end in find_places(message, value, types)]


# -- texts -----------------------------------------------------------------------------------------


def test_a_text_is_found_wherever_it_stands() -> None:
    assert found("oil, then oil", "oil") == ["[oil]", "oil, then [oil]"]


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("the second lamp", "on"),
        ("lampion", "lamp"),
        ("turmoil", "oil"),
        ("Ölstand", "stand"),
        ("zone_4", "zone"),
        ("lamp2", "lamp"),
        ("Oil", "oil"),
        ("", "oil"),
        ("oil", "oil leak"),
    ],
)
def test_a_part_of_a_word_is_no_place(message: str, value: str) -> None:
    assert find_places(message, value, TEXT) == []


@pytest.mark.parametrize("message", ["oil", "oil!", "(oil)", "a\noil\tb", "no-oil-", "é oil é", "😀oil😀"])
def test_words_end_at_whatever_is_no_letter(message: str) -> None:
    assert len(find_places(message, "oil", TEXT)) == 1


@pytest.mark.parametrize("value", ["a.b", "(x)", "[a-z]+", "^", "$5", "a|b", r"\d", "C++", ".*", "?", "{2}"])
def test_signs_of_patterns_are_text(value: str) -> None:
    assert found(f"aab {value} x 7 ab", value) == [f"aab [{value}]"]


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("打开厨房的灯", "厨房"),
        ("เปิดไฟห้องครัว", "ห้องครัว"),
        ("キッチンの照明", "照明"),
        ("펌프가 뜨겁다", "펌프"),
    ],
)
def test_scripts_without_spaces_have_places_within_their_runs(message: str, value: str) -> None:
    assert len(find_places(message, value, TEXT)) == 1


def test_space_around_a_value_is_no_part_of_it() -> None:
    assert found("the pump leaks", " pump ") == ["the [pump]"]


@pytest.mark.parametrize("value", ["", " ", "\t\n", None, True, False, ["oil"], {"a": "oil"}])
def test_what_is_no_text_and_no_number_stands_nowhere(value: Any) -> None:
    """A truth value is no 1."""
    for types in (TEXT, INTEGER, NUMBER, frozenset({"boolean"})):
        assert find_places(f" 1 0 {value} True oil", value, types) == []


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "value", "places"),
    [
        ("at 40 degrees", 40, ["at [40]"]),
        ("at 40°C, not 400", 40, ["at [40]"]),
        ("12V", 12, ["[12]"]),
        ("40.0 or 40,0 or 40", 40, ["[40.0]", "40.0 or [40,0]", "40.0 or 40,0 or [40]"]),
        ("3,5 bar", 3.5, ["[3,5]"]),
        ("3.5 bar", 3.5, ["[3.5]"]),
        ("-4 outside", -4, ["[-4]"]),
        ("-4 outside", 4, []),
        ("T=-0,5", -0.5, ["T=[-0,5]"]),
        ("+7", 7, ["[+7]"]),
        ("007", 7, ["[007]"]),
        ("٣ pumps", 3, ["[٣]"]),
        ("four", 4, []),
        ("", 4, []),
    ],
)
def test_a_number_is_found_however_it_is_written(message: str, value: float, places: list[str]) -> None:
    assert found(message, value, NUMBER) == places


@pytest.mark.parametrize(
    ("message", "value", "places"),
    [
        ("press-4 stopped", 4, ["press-[4]"]),
        ("press-4 stopped", -4, []),
        ("20-30 degrees", 30, ["20-[30]"]),
        ("2024-01-05", 5, ["2024-01-[05]"]),
        ("20 - 30", 30, ["20 - [30]"]),
        ("20 -30", -30, ["20 [-30]"]),
        ("M3 has three faults", 3, []),
        ("v2.0", 2, []),
        ("192.0.2.7", 192, []),
        ("3.5.2", 3, []),
        ("1e5", 1, []),
        ("1,234", 1, []),
        ("$1,234,567", 567, []),
        ("\u22125 degrees", -5, ["[\u22125]"]),
        ("40, 41.", 41, ["40, [41]"]),
        ("5kg", 5, ["[5]"]),
    ],
)
def test_a_line_behind_a_word_is_no_sign_and_what_a_name_ends_with_no_number(
    message: str, value: int, places: list[str]
) -> None:
    assert found(message, value, INTEGER) == places


def test_a_number_with_a_fraction_is_no_integer() -> None:
    assert find_places("3.5", 3.5, INTEGER) == []
    assert found("3.0", 3, INTEGER) == ["[3.0]"]


def test_where_a_field_may_be_text_a_number_is_none() -> None:
    """The place would be read as a text."""
    assert find_places("at 40", 40, frozenset({"string", "integer"})) == []


# -- what a place says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("40", TEXT, "40"),
        ("40", frozenset({"string", "integer"}), "40"),
        ("40", INTEGER, 40),
        ("40", NUMBER, 40),
        ("40.0", INTEGER, 40),
        ("-0.0", NUMBER, 0),
        ("3,5", NUMBER, 3.5),
        ("3,5", INTEGER, None),
        ("3,5", frozenset({"integer", "number"}), 3.5),
        ("40°", NUMBER, None),
        (" 40", NUMBER, None),
        ("1e3", NUMBER, None),
        ("0x10", INTEGER, None),
        ("1,000.5", NUMBER, None),
        ("nan", NUMBER, None),
        ("inf", NUMBER, None),
        ("-", NUMBER, None),
        ("", NUMBER, None),
        ("true", frozenset({"boolean"}), None),
        ("1", frozenset({"boolean"}), None),
        ("40", frozenset(), None),
    ],
)
def test_a_place_is_read_as_what_its_field_may_be(text: str, types: frozenset[str], value: Any) -> None:
    read = read_place(text, (0, len(text)), types)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["8949020000001234567", "-9007199254740993", "0" * 5000 + "7"])
def test_a_long_number_keeps_its_digits(text: str) -> None:
    """As a float the number of a card has other last digits."""
    read = read_place(text, (0, len(text)), INTEGER)
    assert isinstance(read, int)
    assert str(read) == text.lstrip("0")
    assert find_places(f"card {text}.", read, INTEGER) == [(5, 5 + len(text))]


@pytest.mark.parametrize("text", ["9" * 400, "-" + "9" * 400, "9" * 5000, "9" * 400 + ".5"])
def test_a_number_without_end_is_no_value(text: str) -> None:
    """It would be the word Infinity in a result, which isn't JSON."""
    assert read_place(text, (0, len(text)), NUMBER) is None
    assert find_places(text, 9, NUMBER) == []


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["number", "null"]}, {"number"}),
        ({"type": "null"}, set()),
        ({"enum": ["a"]}, set()),
        (True, set()),
    ],
)
def test_types_of_a_field(schema: Any, types: set[str]) -> None:
    assert types_of(schema) == types


# -- what holds for any message --------------------------------------------------------------------

pieces = st.sampled_from(
    ["oil", "Öl", "4", "-4", "3,5", "3.50", "0", "(x)", ".", "-", "_", " ", "\n", "😀", "e\u0301"]
)
messages = st.lists(pieces | st.text(max_size=3), max_size=12).map("".join)
numbers = st.integers() | st.integers(-50, 50) | st.floats(allow_nan=False)


@given(st.data(), messages)
def test_a_text_that_is_found_reads_back_as_the_value(data: st.DataObject, message: str) -> None:
    start = data.draw(st.integers(0, len(message)))
    value = data.draw(st.just(message[start : start + data.draw(st.integers(0, 9))]) | st.text(max_size=3))
    places = find_places(message, value, TEXT)
    for start, end in places:
        assert 0 <= start < end <= len(message)
        assert read_place(message, (start, end), TEXT) == value.strip()
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert not places or value.strip()


@given(st.lists(messages | numbers.map(str), max_size=6).map(" ".join), numbers, st.booleans())
def test_a_number_that_is_found_reads_back_as_the_value(message: str, value: float, is_whole: bool) -> None:
    types = INTEGER if is_whole else NUMBER
    for shown in (message, f"{message} {value}", f"{message}{value}"):
        for start, end in find_places(shown, value, types):
            assert 0 <= start < end <= len(shown)
            assert read_place(shown, (start, end), types) == value


@given(messages, st.integers())
def test_an_integer_that_stands_alone_is_found(message: str, value: int) -> None:
    shown = f"{message} {value}"
    if abs(value) < 10**300:
        assert (len(message) + 1, len(shown)) in find_places(shown, value, INTEGER)


@given(messages, st.sets(st.sampled_from(["string", "integer", "number", "boolean", "null"])))
def test_a_place_is_read_as_one_of_its_types_or_as_nothing(message: str, types: set[str]) -> None:
    read = read_place(message, (0, len(message)), types)
    if isinstance(read, str):
        assert "string" in types
        assert read == message
    elif isinstance(read, float):
        assert "number" in types
        assert abs(read) < float("inf")
    else:
        assert read is None or types & {"integer", "number"}


# -- offsets of tokens -----------------------------------------------------------------------------


def test_the_space_before_a_word_is_none_of_it() -> None:
    message = "a pump  leaks \t"
    offsets = [(0, 0), (0, 1), (1, 6), (6, 13), (13, 15), (15, 15)]
    assert list(bare_offsets(message, offsets)) == [(0, 0), (0, 1), (2, 6), (8, 13), (13, 13), (15, 15)]


@given(st.data(), st.text(st.sampled_from("ab \n\t\u00a0😀"), max_size=20))
def test_bare_offsets_stay_inside_of_their_tokens(data: st.DataObject, message: str) -> None:
    cuts = [0, *sorted(data.draw(st.sets(st.integers(0, len(message))))), len(message)]
    offsets = list(pairwise(cuts))
    bare = list(bare_offsets(message, offsets))
    assert len(bare) == len(offsets)
    for (left, right), (start, end) in zip(offsets, bare, strict=True):
        assert left <= start <= end <= right
        assert message[start:end] == message[left:right].strip()


# -- other values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "other"),
    [
        *((5, -5), (-5, 5), (2.5, -2.5), ("5", "-5"), ("-5", "5"), ("+5", "-5"), ("\u22125", "5")),
        *((0, None), ("0", None), (True, None), ("oil", None), ("-oil", None), ("5 kg", None), (None, None)),
    ],
)
def test_a_number_with_the_other_sign(value: Any, other: Any) -> None:
    assert negate(value) == other
    assert type(negate(value)) is type(other)


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"enum": ["open", "closed"]}, {"string"}),
        ({"const": "open"}, {"string"}),
        ({"type": ["string", "null"], "enum": ["open", None]}, {"string"}),
        ({"enum": ["open", None]}, set()),
        ({"enum": [1, 2]}, set()),
        ({}, set()),
        (True, set()),
    ],
)
def test_listed_texts_are_read_as_texts(schema: Any, types: set[str]) -> None:
    assert span_types(schema) == types
