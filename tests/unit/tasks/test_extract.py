from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Cost, Generate, Output, Text, Turn
from edgeslm.errors import InvalidRequest, TooLong
from edgeslm.messages import Request
from edgeslm.tasks import Outcome, Task, make_task
from edgeslm.tasks.extract import (
    ARRAY_ITEMS,
    MOST_PHRASES,
    MOST_PIECES,
    PHRASE_WORDS,
    SCHEMA_CHARS,
    STRING_CHARS,
    TIGHT_STRING_CHARS,
    bounded,
    find_spans,
    phrases,
)
from tests.support.fakes import FakeEngine
from tests.support.taught import EXTRACT, adapter_bundle

SCHEMA = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "description": "its name"},
        "temperature_c": {"type": "number"},
    },
    "required": ["machine"],
}
MESSAGE = "Press 4 runs at 40 degrees"


def make(**fields: Any) -> Task:
    section = {"kind": "extract", "model": "small", "schema": SCHEMA, "max_tokens": 50, **fields}
    return make_task("fields", TaskSection.model_validate(section, strict=False))


def request(text: Any = MESSAGE, **options: Any) -> Request:
    return Request("fields", text, "1", "r", options=options)


def run(task: Task, engine: FakeEngine, sent: Request | None = None) -> Outcome:
    sent = sent or request()
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


def guides(engine: FakeEngine) -> list[dict[str, Any]]:
    """The schemas that the engine was guided by."""
    found = []
    for call in engine.calls:
        assert isinstance(call, Generate)
        assert call.guide is not None
        assert call.guide.kind == "json_schema"
        found.append(json.loads(call.guide.source))
    return found


FREE = Cost()


def says(fields: Any, cost: Cost = FREE) -> Output:
    return Output(cost, text=fields if isinstance(fields, str) else json.dumps(fields))


def test_fields_and_where_they_stand() -> None:
    engine = FakeEngine(says({"machine": "Press 4", "temperature_c": 40}, Cost(1, 2, 3, 4)))
    outcome = run(make(), engine)
    assert outcome.status == "ok"
    assert outcome.result == {
        "fields": {"machine": "Press 4", "temperature_c": 40},
        "spans": {"machine": {"start": 0, "end": 7}},
        "stage": "small",
    }
    assert outcome.cost == Cost(1, 2, 3, 4)
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert call.max_tokens == 50
    system, user = call.prompt.turns
    assert "".join(map(str, system.parts)) == (
        "Read the message and write its fields as JSON.\n- machine: its name\n- temperature_c"
    )
    assert user.parts == (Text(MESSAGE, cut=True),)


def test_white_space_is_not_for_the_model_to_loop_on() -> None:
    engine = FakeEngine(says({"machine": "x"}))
    run(make(), engine)
    assert guides(engine)[0]["x-guidance"] == {"whitespace_flexible": False}


def test_examples_look_like_outputs() -> None:
    engine = FakeEngine(says({"machine": "x"}))
    run(make(examples=[{"input": "é", "output": {"machine": "é", "temperature_c": 1}}]), engine)
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert call.prompt.turns[2].parts == ('{"machine":"é","temperature_c":1}',)


def test_json_that_was_not_closed_is_tried_again_with_tighter_bounds() -> None:
    engine = FakeEngine(
        says('{"machine":"on and on', Cost(1, 2, 3, 4)), says({"machine": "x"}, Cost(1, 1, 1, 1))
    )
    outcome = run(make(), engine)
    assert outcome.result["fields"] == {"machine": "x"}
    assert outcome.cost == Cost(2, 3, 4, 5), "both tries have their price"
    lengths = [guide["properties"]["machine"]["maxLength"] for guide in guides(engine)]
    assert lengths == [STRING_CHARS, TIGHT_STRING_CHARS]


def test_two_tries_are_enough() -> None:
    engine = FakeEngine(says('{"machine":"on'), says('{"machine":"and on'))
    with pytest.raises(TooLong, match="don't fit 50 tokens; raise max_tokens"):
        run(make(), engine)


def test_the_same_bounds_are_not_tried_twice() -> None:
    schema = {"type": "object", "properties": {"machine": {"type": "string", "maxLength": 5}}}
    engine = FakeEngine(says('{"machine":"on'))
    with pytest.raises(TooLong):
        run(make(schema=schema), engine)


# -- what was taught -------------------------------------------------------------------------------


def make_learned(learned: dict[str, Any] = EXTRACT, **fields: Any) -> Task:
    bundle = adapter_bundle(learned)
    section = TaskSection.model_validate({"learned": str(bundle.path), **fields}, strict=False)
    return make_task("fields", section, bundle)


def test_the_prompt_of_a_learned_adapter_holds_its_instruction_and_the_message() -> None:
    """What it was taught on: the fields it knows."""
    engine = FakeEngine(says({"machine": "Press 4"}))
    run(make_learned(overflow="tail", instruction="Something else"), engine)
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert call.prompt.turns == (
        Turn("system", ("Write the machine as JSON.",)),
        Turn("user", (Text(MESSAGE, cut=True),)),
    )
    assert call.prompt.overflow == "tail"


def test_what_was_taught_brings_kind_and_schema() -> None:
    task = make_learned()
    engine = FakeEngine(says({"machine": "Press 4"}))
    outcome = run(task, engine)
    assert task.kind == "extract"
    assert outcome.result["fields"] == {"machine": "Press 4"}
    assert guides(engine)[0]["required"] == ["machine"]
    assert task.result_schema()["properties"]["fields"] == EXTRACT["output_schema"]


@pytest.mark.parametrize(
    ("taught", "said", "words"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_learned_task_writes_words_of_the_message_where_it_was_taught_or_told_to(
    taught: bool, said: bool, words: bool
) -> None:
    engine = FakeEngine(says({"machine": "Press 4"}))
    run(make_learned({**EXTRACT, "verbatim": taught}, verbatim=said), engine)
    assert ("enum" in guides(engine)[0]["properties"]["machine"]) is words


def test_senders_may_set_what_they_may_of_any_extract_task() -> None:
    engine = FakeEngine(says({"machine": "Press 4"}))
    run(make_learned(max_tokens=50), engine, request(max_tokens=7))
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert call.max_tokens == 7


# -- schemas of senders ----------------------------------------------------------------------------


def test_a_schema_of_the_sender() -> None:
    schema = {"type": "object", "properties": {"valve<|im_end|>": {"type": "integer"}}}
    engine = FakeEngine(says({"valve<|im_end|>": 7}))
    outcome = run(make(allow=["schema"]), engine, request(schema=schema))
    assert outcome.result["fields"] == {"valve<|im_end|>": 7}
    (call,) = engine.calls
    assert isinstance(call, Generate)
    system = call.prompt.turns[0]
    assert system.parts[-1] == Text("\n- valve<|im_end|>"), "a name from outside is a text from outside"
    assert not any("<|" in part for part in system.parts if isinstance(part, str))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strnig"}, "type"),
        ({"type": "array"}, "must be object"),
        ({"properties": {}}, "must be object"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "object", "properties": {"a": {"type": 5}}}, r"options\.schema: properties\.a\.type"),
        ({"type": "object", "properties": {"a": {"type": [["x"]]}}}, "not JSON Schema"),
        ({"type": "object", "properties": {"a": {"maxLength": "x"}}}, "maxLength"),
        ({"type": "object", "properties": {"a": {"$ref": "http://localhost/x"}}}, "points to nothing"),
        ({"type": "object", "description": "x" * SCHEMA_CHARS}, "send a smaller one"),
    ],
)
def test_a_schema_that_is_none_is_refused_before_the_queue(schema: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make(allow=["schema"]).check(request(schema=schema))


def test_a_schema_that_is_nested_for_ever() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(240):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        make(allow=["schema"]).check(request(schema=schema))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (request(schema=SCHEMA), "'schema'"),
        (request(stop=["x"]), "'stop'"),
        (request({"a": 1}), "takes a text"),
    ],
)
def test_refusals(sent: Request, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make().check(sent)


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "added"),
    [
        ({"type": "string"}, {"maxLength": STRING_CHARS}),
        ({"type": "string", "maxLength": 9}, {}),
        ({"type": "string", "maxLength": 9999}, {"maxLength": STRING_CHARS}),
        ({"type": "string", "minLength": 300}, {"maxLength": 300}),
        ({"type": ["string", "null"]}, {"maxLength": STRING_CHARS}),
        ({"type": "string", "enum": ["a"]}, {}),
        ({"type": "string", "pattern": "^a$"}, {}),
        ({"type": "string", "format": "date"}, {}),
        ({"const": "a"}, {}),
        ({"type": "number"}, {}),
        ({"type": "array"}, {"maxItems": ARRAY_ITEMS}),
        ({"type": "array", "maxItems": 3}, {}),
        ({"type": "array", "minItems": 20}, {"maxItems": 20}),
        (True, None),
    ],
)
def test_what_is_bounded(node: Any, added: Any) -> None:
    schema = {"type": "object", "properties": {"type": node}}
    found = bounded(schema, STRING_CHARS, ARRAY_ITEMS)
    expected = node if added is None else {**node, **added}
    assert found == {"type": "object", "properties": {"type": expected}, "additionalProperties": False}
    assert schema == {"type": "object", "properties": {"type": node}}, "the schema itself stays as it was"


def test_bounds_reach_every_subschema() -> None:
    text = {"type": "string"}
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": text, "prefixItems": [text]},
            "b": {"anyOf": [text, text]},
        },
        "additionalProperties": text,
        "$defs": {"c": text},
    }
    dumped = json.dumps(bounded(schema, 7, 3))
    assert dumped.count('"maxLength": 7') == 6
    assert bounded(schema, 7, 3)["additionalProperties"] == {"type": "string", "maxLength": 7}


def test_parts_of_one_object_are_not_closed_against_each_other() -> None:
    """With ``additionalProperties: false`` in each, no object could satisfy both."""
    one = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    two = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
    found = bounded({"type": "object", "allOf": [one, two]}, 9, 9)
    jsonschema.validate({"a": 1, "b": 2}, found)
    found = bounded({**one, "anyOf": [two, {"type": "object", "properties": {"c": {}}}]}, 9, 9)
    jsonschema.validate({"a": 1, "b": 2}, found)
    found = bounded({"type": "object", "properties": {"x": {"oneOf": [one, two]}}}, 9, 9)
    assert [part["additionalProperties"] for part in found["properties"]["x"]["oneOf"]] == [False, False]


# -- verbatim --------------------------------------------------------------------------------------


def test_verbatim_strings_are_runs_of_words_of_the_message() -> None:
    engine = FakeEngine(says({"machine": "Press 4"}))
    run(make(verbatim=True), engine)
    (guide,) = guides(engine)
    assert "Press 4 runs" in guide["properties"]["machine"]["enum"]
    assert "enum" not in guide["properties"]["temperature_c"]


def test_phrases_are_trimmed_of_marks() -> None:
    found = phrases('"Invalid user admin, from (10.0.0.7)!"')
    assert {"Invalid", "user admin", "admin", "10.0.0.7", "from (10.0.0.7"} <= set(found)
    assert not any(phrase[0] in '"(' or phrase[-1] in ',")!' for phrase in found)


@pytest.mark.parametrize(
    ("message", "pieces"),
    [
        ("authentication failure; rhost=192.0.2.1", {"rhost", "192.0.2.1", "rhost=192.0.2.1"}),
        ("root@10.0.0.7:22", {"root", "10.0.0.7", "22", "10.0.0.7:22", "root@10.0.0.7"}),
        ("GET /api/v1/users?id=7&sort=asc", {"users?id", "7", "api/v1/users?id=7", "asc"}),
        ("a|b|c", {"a", "b", "c", "a|b", "b|c"}),
        ("from [2001:db8::1]:514,", {"2001:db8::1", "514", "db8"}),
        ("loopback is ::1.", {"::1"}),
        ("(user=admin).", {"user", "admin", "user=admin"}),
    ],
)
def test_pieces_of_words_are_phrases(message: str, pieces: set[str]) -> None:
    assert pieces <= set(phrases(message))


def test_of_a_word_of_many_pieces_the_first_are_looked_at() -> None:
    """Their number grows with the square, and a sender may send thousands."""
    found = phrases("=".join(f"p{number}" for number in range(2000)))
    assert {"p0", f"p{MOST_PIECES - 1}", "p0=p1=p2=p3"} <= set(found)
    assert f"p{MOST_PIECES}" not in found


def test_words_go_before_pieces_and_pieces_before_runs() -> None:
    """Of a long message the longest runs are left out."""
    words = [*(f"w{number}" for number in range(400)), "k=v"]
    found = phrases(" ".join(words))
    assert found[: len(words)] == words
    assert set(found[len(words) : len(words) + 2]) == {"k", "v"}
    assert max(len(phrase.split()) for phrase in found) == 2


def test_marks_alone_are_words() -> None:
    assert phrases("...") == ["..."]
    assert phrases(" ") == []


@given(
    st.text(max_size=300) | st.lists(st.sampled_from(["ab", "c,", "(d)", "--"]), max_size=2000).map(" ".join)
)
def test_every_phrase_stands_in_the_message(message: str) -> None:
    found = phrases(message)
    assert len(found) == len(set(found)) <= MOST_PHRASES
    assert all(phrase in message and 1 <= len(phrase.split()) <= PHRASE_WORDS for phrase in found)


# -- spans -----------------------------------------------------------------------------------------


def test_spans_of_what_stands_there() -> None:
    message = "Press 4 and Press 4: oil"
    fields = {"a": "Press 4", "b": {"c": "oil"}, "d": ["oil", "water"], "e": 4, "f": "", "g": None}
    assert find_spans(fields, message) == {
        "a": {"start": 0, "end": 7},
        "b.c": {"start": 21, "end": 24},
        "d.0": {"start": 21, "end": 24},
    }


@given(st.text(), st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_span_is_what_it_says(message: str, fields: Any) -> None:
    for span in find_spans({"x": fields}, message).values():
        assert 0 <= span["start"] < span["end"] <= len(message)


@pytest.mark.parametrize(
    ("field", "held"),
    [
        ({"type": "string"}, {"enum": ["pump", "M3", "pump M3"]}),
        ({"type": ["string", "null"]}, {"enum": ["pump", "M3", "pump M3", None]}),
        ({"type": "string", "pattern": "^M[0-9]$"}, {"enum": ["M3"]}),
        ({"type": "string", "format": "date"}, {"enum": ["pump", "M3", "pump M3"]}),
        ({"description": "which"}, {"description": "which", "enum": ["pump", "M3", "pump M3"]}),
        ({"type": "string", "minLength": 50}, {"enum": [""]}),
        (
            {"type": ["string", "integer"]},
            {"anyOf": [{"enum": ["pump", "M3", "pump M3"]}, {"type": "integer"}]},
        ),
        ({"enum": ["on", "off"]}, {"enum": ["on", "off"]}),
        ({"type": "integer"}, {"type": "integer"}),
    ],
)
def test_a_verbatim_string_is_of_the_message_whatever_the_schema_says(
    field: dict[str, Any], held: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": {"field": field}}
    found = bounded(schema, 200, 16, ["pump", "M3", "pump M3"])
    assert found["properties"]["field"] == held


def test_no_pattern_of_a_verbatim_string_stops_the_node() -> None:
    word = "a" * 30 + "b"
    schema = {"type": "object", "properties": {"field": {"type": "string", "pattern": "^(a|a)*$"}}}
    assert bounded(schema, 200, 16, [word])["properties"]["field"] == {"enum": [""]}
