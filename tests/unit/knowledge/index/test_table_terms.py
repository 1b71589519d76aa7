"""Words of names, cells and questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.index.table_terms import (
    COMPARISONS,
    FUNCTION,
    PHRASES,
    UNITS,
    alike,
    fold,
    key_of,
    parse_name,
    stem,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("release", "released"),
        ("press", "presses"),
        ("city", "cities"),
        ("stop", "stopped"),
        ("value", "values"),
        ("temperature", "temp"),
        ("maximum", "max"),
        ("box", "boxes"),
        ("create", "created"),
    ],
)
def test_forms_of_a_word_are_alike(one: str, other: str) -> None:
    assert alike(one) == alike(other)


@pytest.mark.parametrize(("one", "other"), [("press", "pressure"), ("hall", "halt"), ("status", "state")])
def test_other_words_are_not(one: str, other: str) -> None:
    assert alike(one) != alike(other)


def test_names_are_parted_into_words() -> None:
    assert parse_name("pressBar_max (°C)") == ["press", "bar", "max", "c"]
    assert parse_name("supplier.name") == ["supplier", "name"]
    assert parse_name("RX2") == ["rx", "2"]


def test_a_key_knows_neither_case_nor_accents_nor_signs() -> None:
    assert key_of("Korea, Republic of") == key_of("korea republic of")
    assert key_of("Réunion") == key_of("REUNION")
    assert key_of("V-12") == key_of("v 12") == key_of("V12")
    assert key_of("🇰🇪") == ""
    assert key_of("valves") == key_of("valve")
    assert key_of("Billings") != key_of("Bill")


def test_words_that_say_something_are_no_function_words() -> None:
    assert not FUNCTION & {"not", "or", "per", "each", "by", "other", "than", "no", "without", "only"}
    phrases = {*PHRASES, *COMPARISONS}
    assert not {phrase for phrase in phrases if phrase in FUNCTION}


def test_units_are_one_word_each() -> None:
    assert UNITS["celsius"] == UNITS["c"] != UNITS["fahrenheit"]
    assert all(" " not in word for word in UNITS)


@given(st.text(max_size=40))
def test_any_text_has_a_key(text: str) -> None:
    assert key_of(text) == key_of(text.upper().lower()) or not text.isascii()
    assert key_of(key_of(text)).count(" ") <= len(text)
    fold(text)


@given(st.from_regex("[a-z]{1,12}", fullmatch=True))
def test_a_stem_is_not_empty(word: str) -> None:
    assert 0 < len(stem(word)) <= len(word)
