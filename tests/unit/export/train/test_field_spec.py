"""What rows with fields teach a pointer: how each field is found, and what each row says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from edgeslm_export.train.field_spec import Aim, aim_at, plan_fields, pointing_fault
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.learned_task import LearnedField
from edgeslm.bundle.spans import read_place, types_of
from edgeslm.errors import ExportError
from tests.support.export.tiny_tasks import Row, make_field_spec

STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
BOOLEAN = {"type": "boolean"}
STATE = {"enum": ["open", "closed"]}


def plan(rows: Sequence[Row], schema: dict[str, Any], *, required: bool = True, **how: Any) -> LearnedField:
    """How ``x``, the only field, is found."""
    spec = make_field_spec(rows, {"x": schema}, required=["x"] if required else [], **how)
    (field,) = plan_fields(spec)
    assert field.name == "x"
    return field


def rows_of(*values: Any, each: int = 1, text: str = "{}") -> list[Row]:
    """A row for each value of ``x``, which stands in its text where that has a hole."""
    return [(text.format(value), {"x": value}) for value in values for _ in range(each)]


# --- what can be pointed at --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        STRING,
        INTEGER,
        NUMBER,
        BOOLEAN,
        {"type": ["string", "null"]},
        {"type": ["integer", "number"]},
        STATE,
        {"enum": ["open", 3, None, True]},
        {"const": "open"},
        {"const": None},
        {"type": "string", "enum": ["open"]},
        {"type": "string", "maxLength": 5, "pattern": "^M"},
    ],
)
def test_a_single_text_number_or_truth_value_can_be_pointed_at(schema: dict[str, Any]) -> None:
    assert pointing_fault({"properties": {"x": schema}}) is None


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "array"}, "The field 'x' is not a single text, number or truth value"),
        ({"type": "object"}, "The field 'x' is not a single text, number or truth value"),
        ({"type": ["string", "array"]}, "The field 'x' is not a single text, number or truth value"),
        ({"enum": ["a", ["b"]]}, "The field 'x' is not a single text, number or truth value"),
        ({"const": {"a": 1}}, "The field 'x' is not a single text, number or truth value"),
        (True, "The field 'x' is not a single text, number or truth value"),
        ({}, "The field 'x' has no type of its own in the schema"),
        ({"type": "null"}, "The field 'x' has no type of its own in the schema"),
        ({"anyOf": [STRING, INTEGER]}, "The field 'x' has no type of its own in the schema"),
        ({"$ref": "#/$defs/machine"}, "The field 'x' has no type of its own in the schema"),
    ],
)
def test_what_cannot_be_pointed_at_is_named(schema: Any, sentence: str) -> None:
    assert pointing_fault({"properties": {"a": STRING, "x": schema}}) == sentence
    spec = make_field_spec(rows_of("b"), {"x": schema})
    with pytest.raises(ExportError, match=rf"^{sentence}; .* can learn to write it \(--method lora\)"):
        plan_fields(spec)


@pytest.mark.parametrize("schema", [{}, {"properties": {}}])
def test_a_schema_without_fields_has_nothing_to_point_at(schema: dict[str, Any]) -> None:
    assert pointing_fault(schema) == "The schema names no fields"


# --- found or chosen ---------------------------------------------------------------------------------


def test_what_stands_in_its_texts_is_found_there() -> None:
    field = plan(rows_of("pump", "press", each=5, text="the {} is hot"), STRING)
    assert (field.values, field.optional, field.options) == ((), False, 1)
    assert field.longest > 0


def test_values_that_are_often_not_in_their_texts_are_learned_by_heart_beside() -> None:
    rows = [
        *rows_of("open", "closed", each=10, text="it is {}"),
        *rows_of("closed", each=3, text="is it shut?"),
    ]
    field = plan(rows, STRING)
    assert field.longest > 0
    assert field.values == ("closed",)
    assert {aim_at(field, STRING, text, of_row["x"]).option for text, of_row in rows} == {0, 1}


def test_a_value_that_once_in_a_while_is_not_in_its_text_changes_nothing() -> None:
    rows = [*rows_of("open", "closed", each=50, text="it is {}"), ("is it shut?", {"x": "closed"})]
    field = plan(rows, STRING)
    assert field.longest > 0
    assert field.values == ()


@pytest.mark.parametrize("each", [1, 2])
def test_rare_values_that_stand_in_their_texts_are_found_though_one_is_elsewhere(each: int) -> None:
    """None of them could be chosen from: of a few rows a single one is often."""
    names = [f"m{number}" for number in range(20)]
    rows = [*rows_of(*names, each=each, text="{} is hot"), ("the old one is hot", {"x": "crane"})]
    field = plan(rows, STRING)
    assert field.longest > 0
    assert [aim_at(field, STRING, text, of_row["x"]).option for text, of_row in rows] == [
        *([0] * 20 * each),
        None,
    ]


@pytest.mark.parametrize("schema", [STATE, {"type": "string", "enum": ["open", "closed"]}])
def test_texts_that_the_schema_fixes_are_found_or_chosen(schema: dict[str, Any]) -> None:
    rows = [*rows_of("open", each=4, text="it is {}"), *rows_of("closed", text="is it shut?")]
    field = plan(rows, schema)
    assert field.longest > 0 and field.values == ("closed",)
    assert [aim_at(field, schema, text, of_row["x"]).option for text, of_row in rows] == [0, 0, 0, 0, 1]


def test_a_number_with_the_other_sign_is_found() -> None:
    rows = [*rows_of(-5, -7, -9, each=1, text="down by {}"), *rows_of(5, 7, text="up by {}")]
    rows = [(text.replace("-", ""), fields) for text, fields in rows]
    for schema, of_row in ((INTEGER, rows), (STRING, [(text, {"x": str(f["x"])}) for text, f in rows])):
        field = plan(of_row, schema)
        assert (field.negated, field.values, field.options) == (True, (), 2)
        assert [aim_at(field, schema, text, f["x"]).option for text, f in of_row] == [1, 1, 1, 0, 0]
        assert [place for text, f in of_row[:1] for place in aim_at(field, schema, text, f["x"]).places] == [
            (8, 9)
        ]
    assert not plan([*rows_of(*range(9)), *rows[:2]], INTEGER).negated, "two rows are too few"
    assert not plan(rows_of("-x", each=3, text="x y z"), STRING).negated


def test_a_truth_value_is_chosen() -> None:
    field = plan(rows_of(True, False, True), BOOLEAN)
    assert (field.longest, field.values) == (0, (True, False))
    assert [type(value) for value in field.values] == [bool, bool]


def test_a_truth_value_is_learned_beside_the_number_that_it_equals() -> None:
    either = {"enum": [1, True, 0]}
    field = plan(rows_of(1, 1, True, 0), either)
    assert [(type(value), value) for value in field.values] == [(int, 1), (int, 0), (bool, True)]
    assert [aim_at(field, either, "", value).option for value in (1, 0, True)] == [0, 1, 2]


def test_a_value_of_a_constant_is_the_only_one() -> None:
    assert plan(rows_of("open", "open", text="it is on"), {"const": "open"}).values == ("open",)


def test_verbatim_texts_are_never_learned_by_heart() -> None:
    rows = [*rows_of("pump", each=5), *rows_of("oil press", each=9, text="it leaks")]
    assert plan(rows, STRING).values == ("oil press",)
    held = plan(rows, STRING, verbatim=True)
    assert held.longest > 0
    assert held.values == ()


def test_verbatim_says_nothing_of_numbers_and_of_what_the_schema_fixes() -> None:
    rows = [*rows_of(7, each=5), *rows_of(12, each=9, text="a dozen")]
    field = plan(rows, INTEGER, verbatim=True)
    assert field.longest > 0
    assert field.values == (12,)
    shut = rows_of("closed", each=3, text="shut")
    field = plan([*shut, *rows_of("open")], STATE, verbatim=True)
    assert field.longest > 0 and field.values == ("closed",)


@pytest.mark.parametrize(("rows", "values"), [(2, ()), (3, ("pump",))])
def test_rare_values_are_not_learned_by_heart(rows: int, values: tuple[str, ...]) -> None:
    others = rows_of(*(f"m{number}" for number in range(40)), text="{} is hot")
    assert plan([*others, *rows_of("pump", each=rows, text="it is hot")], STRING).values == values


def test_rare_values_that_the_schema_fixes_are_learned() -> None:
    rows = [*rows_of("open", each=50, text="up"), *rows_of("closed", text="shut")]
    assert plan(rows, STATE).values == ("open", "closed")


@pytest.mark.parametrize("verbatim", [True, False])
def test_a_field_that_nothing_can_be_learned_of_is_refused(verbatim: bool) -> None:
    rows = rows_of(*(f"m{number}" for number in range(40)), text="it is hot")
    with pytest.raises(ExportError, match="The values of the field 'x' are in none of the texts"):
        plan(rows, STRING, verbatim=verbatim)


@pytest.mark.parametrize("missing", [{}, {"x": None}])
def test_a_field_that_is_missing_somewhere_is_optional(missing: dict[str, Any]) -> None:
    rows = rows_of("pump", "press", each=4)
    assert plan(rows, STRING).optional is False
    assert plan(rows, STRING, required=False).optional is True
    assert plan([*rows, ("it is hot", missing)], {"type": ["string", "null"]}).optional is True


def test_a_field_that_no_row_has_can_only_be_missing() -> None:
    field = plan([("it is hot", {"y": 1})] * 3, STRING, required=False)
    assert (field.optional, field.longest, field.values, field.options) == (True, 0, (), 1)


@pytest.mark.parametrize(("longest", "room"), [(3, 20), (10, 20), (11, 22), (40, 80)])
def test_a_place_has_room_for_longer_values_than_were_seen(longest: int, room: int) -> None:
    assert plan(rows_of("m" * longest, "mm", each=3, text="{} is hot"), STRING).longest == room


def test_numbers_are_found_by_what_they_say() -> None:
    rows: list[Row] = [("81.50 degrees", {"x": 81.5}), ("81,5 degrees", {"x": 81.5}), ("007", {"x": 7})]
    field = plan(rows, NUMBER)
    assert (field.values, field.longest) == ((), 20)
    assert aim_at(field, NUMBER, "from 1 to 81,50", 81.5) == Aim(0, [(10, 15)])


# --- what a row says of a field ----------------------------------------------------------------------

MACHINE = LearnedField(name="machine", optional=True, longest=20, values=("oil press", "fan"))


@pytest.mark.parametrize(
    ("text", "value", "aim"),
    [
        ("it is hot", None, Aim(0)),
        ("the pump is hot", "pump", Aim(1, [(4, 8)])),
        ("a fan, Fan or fans by a fan", "fan", Aim(1, [(2, 5), (24, 27)])),
        ("it leaks", "oil press", Aim(2)),
        ("it blows", "fan", Aim(3)),
        ("it blows", "pump", Aim(None)),
        ("pumps", "pump", Aim(None)),
    ],
)
def test_a_row_says_missing_or_where_or_which(text: str, value: str | None, aim: Aim) -> None:
    assert aim_at(MACHINE, STRING, text, value) == aim


def test_options_are_counted_from_what_a_field_has() -> None:
    bare = LearnedField(name="x", optional=False, values=("open", "closed"))
    assert aim_at(bare, STATE, "it is closed", "closed") == Aim(1)
    assert aim_at(bare, STATE, "it is closed", None) == Aim(None)  # nobody can say that it is missing
    there = LearnedField(name="x", optional=False, longest=20)
    assert aim_at(there, STRING, "the pump", "pump") == Aim(0, [(4, 8)])


def test_a_truth_value_is_no_number() -> None:
    field = LearnedField(name="x", optional=False, values=(1, True, 0, "1"))
    either = {"type": ["integer", "boolean", "string"]}
    assert [aim_at(field, either, "", value).option for value in (1, True, 0, False, "1", 1.0)] == [
        *(0, 1, 2, None, 3, 0),
    ]
    only = LearnedField(name="x", optional=False, values=(True, False))
    assert [aim_at(only, BOOLEAN, "1", value).option for value in (True, False, 1)] == [0, 1, None]


def test_a_number_is_seen_at_all_its_places() -> None:
    field = LearnedField(name="x", optional=False, longest=20)
    assert aim_at(field, NUMBER, "5, 5.0 or -5", 5) == Aim(0, [(0, 1), (3, 6)])


# --- any rows ----------------------------------------------------------------------------------------

WORDS = ("pump", "oil press", "M3", "7", "81.5", "é", "-2", "")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(WORDS[:-1]) | st.text(max_size=4),
    "integer": st.integers(-2, 7),
    "number": st.sampled_from((7, 81.5, -2)) | st.floats(-1e3, 1e3),
    "boolean": st.booleans(),
}


@st.composite
def specs(draw: st.DrawFn) -> tuple[list[Row], dict[str, Any]]:
    """Rows of one field, and its schema."""
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2, unique=True))
    value = st.none() | st.one_of(*(VALUES[kind] for kind in kinds))
    text = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join) | st.text(max_size=10)
    rows = draw(st.lists(st.tuples(text, value.map(lambda one: {"x": one})), min_size=1, max_size=12))
    schema: dict[str, Any] = {"type": [*kinds, "null"]}
    if draw(st.booleans()):
        schema["enum"] = [None, *(of_row["x"] for _, of_row in rows)]
    return rows, schema


@given(specs(), st.booleans(), st.booleans())
def test_every_aim_is_one_of_the_options_of_its_field(
    spec: tuple[list[Row], dict[str, Any]], required: bool, verbatim: bool
) -> None:
    rows, schema = spec
    try:
        field = plan(rows, schema, required=required, verbatim=verbatim)
    except ExportError as error:
        assert "in none of the texts" in str(error) or "nobody could tell which" in str(error)
        return
    assert field.options > 0
    for text, of_row in rows:
        aim = aim_at(field, schema, text, of_row["x"])
        assert aim.option is None or 0 <= aim.option < field.options
        is_place = bool(field.longest) and aim.option == int(field.optional)
        assert bool(aim.places) is is_place
        for start, end in aim.places:
            assert 0 < end - start <= field.longest
            assert read_place(text, (start, end), types_of(schema)) == of_row["x"]
