"""JSON Schemas: what is refused before an engine sees it, and that checks say what jsonschema's own say."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgeslm.config.json_schemas import make_validator, schema_faults
from edgeslm.errors import InvalidRequest
from edgeslm.tasks.extract import SCHEMA_PARTS, bounded, check_schema


def of(field: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": field}, **more}


def fault(schema: dict[str, Any]) -> str | None:
    found = next(schema_faults((), schema), None)
    return None if found is None else f"{'.'.join(map(str, found[0]))}: {found[1]}"


COSTLY: list[tuple[dict[str, Any], str]] = [
    (of({"type": "integer", "multipleOf": 5_000_011}), "the sum of its multipleOf"),
    (of({"type": "number", "multipleOf": 1.000001}), "the sum of its multipleOf"),
    (of({"type": "number", "multipleOf": 1e300}), "the sum of its multipleOf"),
    (of({"type": "number", "multipleOf": 10**300}), "the sum of its multipleOf"),
    (
        {"type": "object", "properties": {f"{n}": {"multipleOf": 9000 + n} for n in range(40)}},
        "the sum of its multipleOf",
    ),
    (of({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}), "properties.a: its multipleOf"),
    (of({"multipleOf": 997, "anyOf": [{"multipleOf": 991}]}), "properties.a: its multipleOf"),
    (
        of({"multipleOf": 997, "$ref": "#/$defs/b"}, **{"$defs": {"b": {"multipleOf": 991}}}),
        "properties.a: its multipleOf",
    ),
    (of({"type": "array", "minItems": 1_000_000}), "minItems: must be 1000 at most"),
    (of({"type": "array", "items": {"minItems": 1e6}}), "minItems: must be 1000 at most"),
    *(
        ({"type": "object", "properties": {name: {"minItems": 10**8}}}, "minItems: must be 1000 at most")
        for name in ("enum", "const", "default", "examples", "properties", "$defs")
    ),
    (of({"$ref": "#/properties/a/default", "default": {"minItems": 10**8}}), "points to nothing"),
    (of({"$id": "http://a/b", "$ref": "#/b", "b": {"maxItems": 10**9}}, b={}), "only the whole schema may"),
    (
        of({"id": "http://a/b"}, **{"$schema": "http://json-schema.org/draft-04/schema#"}),
        "only the whole schema may",
    ),
    (of({"$ref": "#/%62"}, **{"%62": {}, "b": {"maxItems": 10**9}}), "points to nothing"),
    (of({"$ref": "#/properties/b/enum/0"}, enum=[{"b": 1}]), "points to nothing"),
    (of({"unevaluatedProperties": False}), "can't be followed here"),
    (of({"pattern": "(?=a)b"}), "can't be matched here: look-around"),
    (of({"patternProperties": {"(a": {}}}), "can't be matched here: unclosed group"),
]


@pytest.mark.parametrize(("schema", "sentence"), COSTLY)
def test_what_would_cost_too_much_is_refused(schema: dict[str, Any], sentence: str) -> None:
    assert sentence in (fault(schema) or "")
    with pytest.raises(InvalidRequest, match="schema"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        of({"type": "integer", "multipleOf": 5000}),
        of({"type": "number", "multipleOf": 0.01}),
        of({"type": "number", "multipleOf": 0.000001}),
        of({"type": "array", "items": {"multipleOf": 7}, "minItems": 3}),
        of({"anyOf": [{"multipleOf": 4099}, {"multipleOf": 4111}]}),
        of({"enum": [{"minItems": 10**9, "multipleOf": 3}]}),
        of({"$ref": "#/$defs/b"}, **{"$defs": {"b": {"multipleOf": 991}}}),
        of({"type": "string", "pattern": r"^[\w .-]{1,50}$", "maxLength": 10**9}),
        of({"properties": {"b": {"$ref": "#"}}, "type": "object"}),
        {"$id": "http://a/b", "type": "object", "properties": {"$id": {"type": "string"}}},
        {"type": "object", "properties": {"default": {}, "b": {"$ref": "#/properties/default"}}},
    ],
)
def test_what_is_usual_is_taken(schema: dict[str, Any]) -> None:
    assert fault(schema) is None
    check_schema(schema)


def test_a_sender_s_patterns_are_bounded_together() -> None:
    patterns = {f"{n}": {"pattern": rf"^[a-z]\w{{1,{20 + n}}}$"} for n in range(8)}
    schema = {"type": "object", "properties": patterns}
    assert fault(schema) is None, "the owner's may be"
    with pytest.raises(InvalidRequest, match="allow fewer repetitions"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        of({"anyOf": [{}] * SCHEMA_PARTS}),
        of({"allOf": [{"not": {}}] * 2000}),
        {"type": "object", "properties": {f"{n:x}": {} for n in range(2000)}},
    ],
)
def test_a_schema_of_many_parts_is_not_even_checked(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"{SCHEMA_PARTS} parts"):
        check_schema(schema)


def test_items_are_bounded_whatever_the_type() -> None:
    assert bounded(of({"maxItems": 10**6}), 200, 16)["properties"]["a"]["maxItems"] == 16


def test_what_a_reference_points_to_is_bounded_wherever_it_stands() -> None:
    apart = {"items": {"type": "string"}, "maxItems": 10**9}
    found = bounded(of({"$ref": "#/apart/b"}, apart={"b": apart}), 200, 16, ["word"])["apart"]["b"]
    assert found["maxItems"] == 16
    assert found["items"]["enum"] == ["word"]


NUMBERS = st.integers(1, 10**12) | st.floats(1e-9, 1e12) | st.sampled_from([1e300, 10**400, 5e-324, 0.1])
NODES = st.recursive(
    st.fixed_dictionaries({}, optional={"type": st.sampled_from(["string", "integer", "array", "object"])})
    | st.builds(lambda number: {"multipleOf": number}, NUMBERS)
    | st.builds(lambda number: {"minItems": number}, st.integers(0, 10**12))
    | st.builds(lambda text: {"pattern": text}, st.text(r"ab(){}[]\w,19*", max_size=20)),
    lambda inner: (
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner))
        | st.builds(lambda parts: {"anyOf": parts}, st.lists(inner))
        | st.builds(lambda part: {"items": part}, inner)
        | st.builds(lambda part, other: {**part, **other}, inner, inner)
        | st.builds(lambda part: {"properties": {"x": part, "y": {"$ref": "#"}}}, inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(NODES)
def test_any_schema_is_taken_or_refused_in_time(node: dict[str, Any]) -> None:
    began = time.thread_time()
    try:
        check_schema(of(node))
        bounded(of(node), 200, 16, ["a word"])
    except InvalidRequest as error:
        assert str(error)
    assert time.thread_time() - began < 10


# Values


SCHEMAS: list[dict[str, Any]] = [
    of({"type": "string", "pattern": "^a+$"}),
    {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False},
    {
        "type": "object",
        "properties": {"b": {}},
        "patternProperties": {"^a": {"type": "integer"}},
        "additionalProperties": {"type": "string"},
    },
    of({"type": "array", "uniqueItems": True}),
    {"type": "object", "propertyNames": {"pattern": "^[ab]$"}},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([1.0, 0.5, "a", "aa", "b", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ab"]), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(SCHEMAS), VALUES)
def test_values_fit_as_jsonschema_says(schema: dict[str, Any], value: Any) -> None:
    assert make_validator(schema).is_valid(value) == Draft202012Validator(schema).is_valid(value)


DIALECT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **of({"pattern": "^(a|a)*$"}, required=["a"]),
}
DIALECT["properties"] |= {"b": {"$ref": "#"}}
"""The library takes the keywords of a subschema from the dialect that it names."""


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (of({"pattern": "^(a|a)*$"}), {"a": "a" * 100_000 + "b"}),
        ({"patternProperties": {"^(a|a)*$": {}}, "additionalProperties": False}, {"a" * 100_000 + "b": 1}),
        ({"propertyNames": {"pattern": "^(a|a)*$"}}, {"a" * 100_000 + "b": 1}),
        (of({"uniqueItems": True}), {"a": [{"n": n} for n in range(20_000)] + [{"n": 0}]}),
        (DIALECT, {"b": {"a": "a" * 24 + "b"}}),
        (of(DIALECT), {"a": {"a": "a" * 24 + "b"}}),
    ],
)
def test_no_value_takes_long(schema: dict[str, Any], value: Any) -> None:
    began = time.thread_time()
    assert not make_validator(schema).is_valid(value)
    assert time.thread_time() - began < 10


@pytest.mark.parametrize("schema", [DIALECT, of(DIALECT), {**DIALECT, "properties": {"b": of(DIALECT)}}])
def test_no_dialect_brings_the_library_s_own_expressions(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object) -> None:
        raise AssertionError("Python's own expressions are not linear")

    monkeypatch.setattr("jsonschema._keywords.re.search", search)
    values: list[Any] = [{"a": "b", "b": {"a": "b"}}, {"a": {"a": "b"}}, {"b": {"a": {"a": "b"}}}]
    for value in values:
        make_validator(schema).is_valid(value)


def test_kinds_without_end_are_refused_at_once() -> None:
    kinds: list[Any] = [[number] if number % 2 else str(number) for number in range(2500)]
    began = time.thread_time()
    with pytest.raises(InvalidRequest, match="not JSON Schema"):
        check_schema(of({"type": kinds}))
    assert time.thread_time() - began < 1
