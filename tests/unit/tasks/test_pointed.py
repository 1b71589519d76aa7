"""One field, read from what a head says of its options and of places in the message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.learned_task import LearnedSection
from edgeslm.engine.calls import Pointed
from edgeslm.tasks.pointed import FieldReader, PointedField, make_readers
from tests.support.pointers import POINTED, at

MESSAGE = "Press 4 runs at 40 degrees, Press 4!"
TEXT = {"type": "string"}
NUMBER = {"type": "number"}


def reader(
    schema: Any,
    *,
    required: bool = False,
    verbatim: bool = False,
    taught: Any = None,
    root: dict[str, Any] | None = None,
    **field: Any,
) -> FieldReader:
    """Of a field that stands in the message, unless ``field`` says otherwise.

    :param taught: its schema when it was taught, if that isn't ``schema``. :param root: more of the schema.
    """
    of_field = {"name": "field", "optional": False, "longest": 20, **field}
    section = {
        "task": "t",
        "kind": "extract",
        "output_schema": {"type": "object", "properties": {"field": schema if taught is None else taught}},
        "fields": [of_field],
        "rows": 9,
    }
    learned = LearnedSection.model_validate_json(json.dumps(section))
    whole = {
        "type": "object",
        "properties": {"field": schema},
        "required": ["field"] if required else [],
        **(root or {}),
    }
    (made,) = make_readers(learned, whole, verbatim=verbatim)
    return made


def places(*found: tuple[int, int, float], option: float = 1.0, others: tuple[float, ...] = ()) -> Pointed:
    """Of a field that stands in the message, as the first of its options."""
    return Pointed((option, *others), found)


def test_the_likeliest_answer_is_taken_and_not_the_likeliest_way_to_it() -> None:
    """That it stands in the message is likely; where, nobody knows."""
    read = reader(TEXT, values=["stopped"])
    unsure = places((0, 5, 0.2), (16, 18, 0.2), option=0.6, others=(0.4,))
    assert read.read(MESSAGE, unsure) == PointedField("stopped", 0.4)
    surer = places((0, 5, 0.9), option=0.6, others=(0.4,))
    assert read.read(MESSAGE, surer) == PointedField("Press", 0.6 * 0.9, place=(0, 5))


def test_ways_that_lead_to_one_answer_add_up() -> None:
    """It may be known by heart and stand in the message too."""
    read = reader(TEXT, optional=True, values=["Press"])
    torn = Pointed((0.4, 0.3, 0.3), ((0, 5, 1.0),))
    assert read.read(MESSAGE, torn) == PointedField("Press", 0.6, place=(0, 5))


def test_a_place_parts_no_word() -> None:
    assert reader(TEXT).read(MESSAGE, places((1, 5, 0.7), (8, 12, 0.3))) == PointedField(
        "runs", 0.3, place=(8, 12)
    )
    assert reader(NUMBER).read("code 1234567", places((5, 8, 1.0))) is None


def test_a_taught_value_is_told_where_it_stands_as_a_word() -> None:
    read = reader({"enum": ["on"]}, longest=0, values=["on"])
    assert read.read("second lamp is on", Pointed((1.0,))) == PointedField("on", 1.0, place=(15, 17))
    assert read.read("the second lamp", Pointed((1.0,))) == PointedField("on", 1.0)


def test_a_number_with_the_other_sign() -> None:
    read = reader(TEXT, negated=True)
    by = places((11, 12, 1.0), option=0.2, others=(0.8,))
    assert read.read("go down by 4", by) == PointedField("-4", 0.8, place=(11, 12))
    assert reader(NUMBER, negated=True).read("go down by 4", by) == PointedField(-4, 0.8, place=(11, 12))
    bounded = reader({"type": "number", "minimum": 0}, negated=True)
    assert bounded.read("go down by 4", by) == PointedField(4, 0.2, place=(11, 12))


def test_a_listed_text_is_found_though_nobody_taught_it() -> None:
    read = reader({"enum": ["red", "green"]}, values=["red"])
    assert read.read("make it green", places((8, 13, 1.0), option=0.7, others=(0.3,))) == PointedField(
        "green", 0.7, place=(8, 13)
    )
    assert read.read("make it brown", places((8, 13, 1.0), option=0.7, others=(0.3,))) == PointedField(
        "red", 0.3
    )


# -- options ---------------------------------------------------------------------------------------


def test_what_stands_in_the_message() -> None:
    found = reader(TEXT).read(MESSAGE, places(at(MESSAGE, "Press 4", 0.75), option=0.5))
    assert found == PointedField("Press 4", 0.375, place=(0, 7))


def test_an_optional_field_that_is_missing_is_left_out() -> None:
    found = reader(TEXT, optional=True).read(MESSAGE, Pointed((0.9, 0.1), (at(MESSAGE, "Press"),)))
    assert found == PointedField(None, 0.9, is_there=False)


@pytest.mark.parametrize("schema", [{"type": ["string", "null"]}, {"enum": ["a", None]}, {"const": None}])
def test_a_required_field_that_is_missing_is_null(schema: dict[str, Any]) -> None:
    made = reader(schema, optional=True, required=True)
    assert made.read(MESSAGE, Pointed((0.9, 0.1))) == PointedField(None, 0.9)


def test_a_required_field_that_cant_be_null_is_the_next_likeliest() -> None:
    """It was left out of rows that the schema of now wouldn't let through."""
    made = reader(TEXT, optional=True, required=True)
    found = made.read(MESSAGE, Pointed((0.75, 0.25), (at(MESSAGE, "Press 4"),)))
    assert found == PointedField("Press 4", 0.25, place=(0, 7))
    assert made.read(MESSAGE, Pointed((0.9, 0.1))) is None


@pytest.mark.parametrize(
    ("schema", "values", "value"),
    [
        ({"enum": ["on", "off"]}, ["off", "on"], "on"),
        ({"type": "boolean"}, [False, True], True),
        ({"type": "integer"}, [0, 1], 1),
        ({"type": "number"}, [1, 1.5], 1.5),
        ({"enum": [1, True]}, [1, True], True),
    ],
)
def test_a_value_that_was_taught(schema: dict[str, Any], values: list[Any], value: Any) -> None:
    """It needs not stand in the message, and keeps its type."""
    found = reader(schema, longest=0, values=values).read(MESSAGE, Pointed((0.25, 0.75)))
    assert found == PointedField(value, 0.75)
    assert type(found.value) is type(value)


def test_options_are_in_the_order_missing_place_values() -> None:
    made = reader({"type": ["string", "null"]}, optional=True, values=["a", "b"])
    place = at(MESSAGE, "runs")
    found = [
        made.read(MESSAGE, Pointed(tuple(float(number == option) for number in range(4)), (place,)))
        for option in range(4)
    ]
    assert found == [
        PointedField(None, 1.0, is_there=False),
        PointedField("runs", 1.0, place=place[:2]),
        PointedField("a", 1.0),
        PointedField("b", 1.0),
    ]


def test_the_likeliest_option_that_fits_is_taken() -> None:
    made = reader({"type": "string", "maxLength": 4}, values=["too long", "fits"])
    pointed = Pointed((0.3, 0.5, 0.2), (at(MESSAGE, "degrees"),))
    assert made.read(MESSAGE, pointed) == PointedField("fits", 0.2)


def test_no_place_and_nothing_else() -> None:
    assert reader(TEXT).read("", places()) is None
    assert reader({"enum": ["c"]}, longest=0, values=["a", "b"]).read(MESSAGE, Pointed((0.5, 0.5))) is None


# -- places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TEXT, "Press"),
        ({"type": "string", "pattern": "^[0-9]+$"}, "40"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "degrees"),
        ({"type": "string", "minLength": 6}, "degrees"),
        ({"type": "string", "maxLength": 2}, "40"),
        ({"type": "string", "enum": ["Press 4", "Press 5"]}, "Press 4"),
        ({"type": "string", "not": {"pattern": "^P"}}, "degrees"),
        ({"type": "integer"}, 40),
        ({"type": "integer", "minimum": 50}, None),
        ({"type": "integer", "maximum": 39}, 4),
        ({"type": "integer", "multipleOf": 3}, None),
        ({"type": ["string", "integer"], "maxLength": 2}, "40"),
        (False, None),
    ],
)
def test_the_likeliest_place_that_fits_the_schema_is_taken(schema: Any, value: Any) -> None:
    shares = {"Press": 0.4, "degrees": 0.25, "40": 0.2, "Press 4": 0.1, "4": 0.05}
    pointed = places(*(at(MESSAGE, text, share) for text, share in shares.items()))
    found = reader(schema, taught=TEXT if schema is False else None).read(MESSAGE, pointed)
    if value is None:
        assert found is None
    else:
        assert found is not None
        assert found.value == value
        assert type(found.value) is type(value)
        assert found.share == shares[str(value)]
        assert found.place == at(MESSAGE, str(value))[:2]


def test_a_text_that_stands_there_several_times_counts_with_all_its_places() -> None:
    """And the likeliest of them is told."""
    pointed = places(
        at(MESSAGE, "degrees", 0.375), at(MESSAGE, "Press 4", 0.25, nth=1), at(MESSAGE, "Press 4", 0.25)
    )
    found = reader(TEXT).read(MESSAGE, pointed)
    assert found == PointedField("Press 4", 0.5, place=(28, 35))
    assert found.place is not None
    assert MESSAGE[slice(*found.place)] == "Press 4"


def test_shares_of_places_are_never_more_than_one() -> None:
    """Floats that sum to 1 may do so with a little more."""
    pointed = places(at(MESSAGE, "Press 4", 0.6), at(MESSAGE, "Press 4", 0.4 + 1e-12, nth=1))
    found = reader(TEXT).read(MESSAGE, pointed)
    assert found is not None
    assert found.share == 1.0


def test_places_in_other_writing() -> None:
    message = "Füllstand 😀 in Öl-Tank 7: −3 oder -3,5 °C"
    pointed = places(at(message, "Öl-Tank 7", 0.75), at(message, "-3,5", 0.25))
    assert reader(TEXT).read(message, pointed) == PointedField("Öl-Tank 7", 0.75, place=(15, 24))
    found = reader(NUMBER).read(message, pointed)
    assert found is not None
    assert (found.value, found.place) == (-3.5, at(message, "-3,5")[:2])


# -- the schema's other parts ----------------------------------------------------------------------


def test_a_field_may_refer_to_definitions_of_its_schema() -> None:
    root = {"$defs": {"name": {"type": "string", "pattern": "^d"}}}
    pointed = places(at(MESSAGE, "Press", 0.6), at(MESSAGE, "degrees", 0.4))
    made = reader({"$ref": "#/$defs/name"}, taught=TEXT, root=root)
    assert made.read(MESSAGE, pointed) == PointedField("degrees", 0.4, place=(19, 26))


@pytest.mark.parametrize("schema", [True, {}, {"description": "which"}, {"maximum": 100}])
def test_a_field_whose_schema_names_no_type_is_read_as_it_was_taught(schema: Any) -> None:
    pointed = places(at(MESSAGE, "40"))
    for taught, value in ((TEXT, "40"), (NUMBER, 40), ({"type": ["integer", "null"]}, 40)):
        found = reader(schema, taught=taught).read(MESSAGE, pointed)
        assert found is not None
        assert found.value == value
        assert type(found.value) is type(value)


def test_readers_are_those_of_the_schema_in_its_order() -> None:
    learned = LearnedSection.model_validate_json(json.dumps(POINTED))
    schema = {"type": "object", "properties": {"state": {"enum": ["on"]}, "machine": TEXT}}
    made = make_readers(learned, schema, verbatim=False)
    assert [(one.number, one.name) for one in made] == [(2, "state"), (0, "machine")]
    assert make_readers(learned, {"type": "object"}, verbatim=False) == []


# -- verbatim --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TEXT, "degrees"),
        ({"type": ["string", "null"]}, "degrees"),
        ({"type": "string", "enum": ["pump", "degrees"]}, "pump"),
        ({"const": "pump"}, "pump"),
    ],
)
def test_a_verbatim_text_stands_in_the_message_unless_the_schema_fixes_it(
    schema: dict[str, Any], value: str
) -> None:
    pointed = Pointed((0.75, 0.25))
    for verbatim, expected in ((True, value), (False, "pump")):
        made = reader(schema, verbatim=verbatim, longest=0, values=["pump", "degrees"])
        found = made.read(MESSAGE, pointed)
        assert found is not None
        assert found.value == expected


def test_numbers_and_truth_values_need_not_stand_there_verbatim() -> None:
    for schema, value in ((NUMBER, 7), ({"type": "boolean"}, True)):
        made = reader(schema, verbatim=True, longest=0, values=[value])
        assert made.read(MESSAGE, Pointed((1.0,))) == PointedField(value, 1.0)


# -- what holds for any answer of a head -----------------------------------------------------------

shares = st.floats(0, 1)


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, Pointed]:
    """A message, and what a head says of a field with four options in it."""
    message = draw(st.lists(st.sampled_from(["oil ", "4 ", "3,5", "-", "😀", "é"]), max_size=8).map("".join))
    offsets = st.integers(0, max(len(message) - 1, 0))
    found = []
    for _ in range(draw(st.integers(0, 5)) if message else 0):
        start = draw(offsets)
        found.append((start, draw(st.integers(start + 1, len(message))), draw(shares)))
    total = max(sum(share for _, _, share in found), 1.0)
    ranked = sorted(((start, end, share / total) for start, end, share in found), key=lambda one: -one[2])
    return message, Pointed(tuple(draw(st.lists(shares, min_size=4, max_size=4))), tuple(ranked))


@given(
    answers(),
    st.sampled_from([TEXT, NUMBER, {"type": ["string", "null"]}, {"type": "integer", "minimum": 4}]),
    st.booleans(),
    st.booleans(),
)
def test_what_is_found_fits_the_schema_and_says_where_it_stands(
    answer: tuple[str, Pointed], schema: dict[str, Any], required: bool, verbatim: bool
) -> None:
    message, pointed = answer
    made = reader(schema, required=required, verbatim=verbatim, optional=True, values=["oil", 4])
    found = made.read(message, pointed)
    if found is None:
        return
    assert 0 <= found.share <= 1
    types = schema["type"]
    if found.value is None:
        assert found.is_there == required
        assert not required or "null" in types
    elif isinstance(found.value, str):
        assert "string" in types
        assert not verbatim or found.value in message
    else:
        assert isinstance(found.value, int) or types == "number"
    if found.place is not None:
        start, end = found.place
        assert 0 <= start < end <= len(message)
        if isinstance(found.value, str):
            assert message[start:end] == found.value
