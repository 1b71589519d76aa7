"""What a grammar may force, beside what it does force with the real model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime_genai as og
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.engine.calls import Guide
from edgeslm.engine.worker.grammar import MOST_FORCED, longest_forced, runtime_grammar

NAMES = st.text("abcdefgh_", min_size=1, max_size=12)
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]),
    st.fixed_dictionaries({"enum": st.lists(NAMES, min_size=1, max_size=3, unique=True)}),
    st.fixed_dictionaries({"const": NAMES}),
    st.integers(-(10**9), 10**9).map(lambda n: {"type": "integer", "minimum": n, "maximum": n}),
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(NAMES, inner, min_size=1, max_size=4)
    return properties.map(
        lambda known: {
            "type": "object",
            "properties": known,
            "required": list(known),
            "additionalProperties": False,
        }
    )


def arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    counts = st.integers(0, 4)
    return st.builds(
        lambda item, least, more: {
            "type": "array",
            "items": item,
            "minItems": least,
            "maxItems": least + more,
        },
        inner,
        counts,
        counts,
    )


SCHEMAS = objects(st.recursive(LEAVES, lambda inner: st.one_of(objects(inner), arrays(inner)), max_leaves=6))


def guide(schema: Any) -> Guide:
    return Guide("json_schema", json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}}))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCHEMAS)
def test_no_more_is_forced_than_there_is_room_for(model: Any, schema: dict[str, Any]) -> None:
    asked = guide(schema)
    if not (longest := longest_forced(asked)):
        return
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=1500, do_sample=False)
    params.set_guidance(*runtime_grammar(asked), True)
    generator = og.Generator(model, params)
    generator.append_tokens(np.arange(50, 60, dtype=np.int32))
    for _ in range(40):
        before = generator.token_count()
        if generator.is_done():
            break
        generator.generate_next_token()
        assert generator.token_count() - before <= longest


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "a{1000}"},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "array", "items": {"const": "x"}},
        {"type": "array", "items": {"const": "x" * 20}, "minItems": 20, "maxItems": 20},
        {"type": "object", "patternProperties": {"a{300}": {}}},
        {"const": "x" * MOST_FORCED},
        {"const": "ü"},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["x" * 600]},
        {"type": "object", "additionalProperties": {"const": "x" * 20}, "required": list("abcdef")},
        {"allOf": [{"type": "object", "required": ["x" * 600]}, {"type": "object"}]},
        {"type": "number", "minimum": 1e300, "maximum": 1e300},
        {"type": "number", "minimum": 1e-300, "maximum": 1e-300},
        {"type": "integer", "minimum": 10**30, "maximum": 10**30},
        {"type": ["null", "number"], "exclusiveMinimum": 1e300},
        {"type": "object", "minProperties": 90},
    ],
)
def test_what_may_force_more_is_computed_like_the_rest(schema: dict[str, Any]) -> None:
    assert longest_forced(guide(schema)) == 0


def test_a_choice_forces_no_more_than_its_longest_way() -> None:
    words = {"type": "object", "properties": {"word": {"enum": ["x" * 20 for _ in range(100)]}}}
    assert 20 < longest_forced(guide(words)) < 60


@pytest.mark.parametrize(
    "source", ["no json", "[]", '{"enum": []}', '{"items": {}, "maxItems": "x"}', "{" * 9]
)
def test_what_is_no_schema_is_left_to_the_runtime(source: str) -> None:
    assert longest_forced(Guide("json_schema", source)) <= 24


@pytest.mark.parametrize("kind", ["regex", "lark_grammar"])
def test_other_grammars_are_not_looked_into(kind: Any) -> None:
    assert longest_forced(Guide(kind, "start: a")) == 0
