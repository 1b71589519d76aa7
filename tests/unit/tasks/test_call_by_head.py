"""Tool calls by a trained head: when it calls, when it passes requests on, what it answers to results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Output, Point, Pointed
from edgeslm.errors import ConfigError
from edgeslm.messages import Request
from edgeslm.tasks import Outcome, Task, make_task
from edgeslm.tasks.call_by_head import call_of, is_failure
from tests.support.fakes import FakeEngine
from tests.support.pointers import pointer_bundle
from tests.support.taught import head_bundle

HOUSEHOLD: dict[str, Any] = {
    "output_schema": {
        "type": "object",
        "properties": {"intent": {"enum": ["turn_on", "weather"]}, "name": {"type": "string"}},
        "required": ["intent"],
    },
    "fields": [
        {"name": "intent", "optional": False, "values": ["turn_on", "weather"]},
        {"name": "name", "optional": True, "longest": 20},
    ],
}
TOOLS = [
    {"name": "turn_on", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}},
    {"name": "stop"},
]
TEXT = "Turn on the lamp"
TURN_ON = Pointed((1.0, 0.0))
WEATHER = Pointed((0.0, 1.0))
LAMP = Pointed((0.0, 1.0), ((12, 16, 1.0),))
UNSURE = Pointed((0.55, 0.45))


def make(**fields: Any) -> Task:
    bundle = pointer_bundle(**HOUSEHOLD)
    section = {"kind": "generate", "learned": str(bundle.path), "threshold": 0.8, **fields}
    return make_task("assist", TaskSection.model_validate(section, strict=False), bundle)


def run(
    task: Task, *fields: Pointed, sent: str | Mapping[str, Any] = TEXT, **options: Any
) -> tuple[Outcome, FakeEngine]:
    engine = FakeEngine(Output(fields=fields))
    request = Request("assist", sent, "1", "r", options=options)
    task.check(request)
    outcome = asyncio.run(task.run(request, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome, engine


def test_a_sure_head_calls_the_tool_that_its_intent_names() -> None:
    outcome, engine = run(make(), TURN_ON, LAMP, tools=TOOLS)
    assert outcome.status == "ok"
    assert outcome.result == {
        "text": "",
        "finish_reason": "tool_calls",
        "tool_calls": [{"name": "turn_on", "arguments": {"name": "lamp"}}],
        "confidence": 1.0,
    }
    (call,) = engine.calls
    assert isinstance(call, Point) and call.text == TEXT


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ((UNSURE, LAMP), {"tools": TOOLS}),
        ((WEATHER, LAMP), {"tools": TOOLS}),  # there is no such tool
        ((TURN_ON, LAMP), {}),
        ((TURN_ON, LAMP), {"tools": TOOLS, "tool_choice": "none"}),
        ((TURN_ON, LAMP), {"tools": TOOLS, "tool_choice": "stop"}),
        ((TURN_ON, LAMP), {"tools": [{"name": "turn_on"}]}),  # which takes no name
    ],
)
def test_what_it_passes_on(fields: tuple[Pointed, ...], options: dict[str, Any]) -> None:
    outcome, _ = run(make(), *fields, **options)
    assert outcome.status == "abstained"
    assert "tool_calls" not in outcome.result


def chat(result: str) -> dict[str, Any]:
    call = {"name": "turn_on", "arguments": {"name": "lamp"}}
    return {
        "messages": [
            {"role": "user", "content": TEXT},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": result},
        ]
    }


def test_a_result_gets_the_reply_without_a_model() -> None:
    task, sound = make(reply="Done."), '{"data": {}, "error": null}'
    outcome, _ = run(task, TURN_ON, LAMP, sent=chat(sound), tools=TOOLS)
    assert (outcome.status, outcome.result["text"]) == ("ok", "Done.")
    assert "tool_calls" not in outcome.result
    for other, result in ((make(), "ok"), (task, '{"error": "no such lamp"}')):
        assert run(other, TURN_ON, LAMP, sent=chat(result), tools=TOOLS)[0].status == "abstained"


def test_a_call_that_failed_gets_its_own_reply() -> None:
    failed = chat('{"error": "MatchFailedError"}')
    task = make(error_reply="That didn't work.")
    outcome, _ = run(task, TURN_ON, LAMP, sent=failed, tools=TOOLS)
    assert (outcome.status, outcome.result["text"]) == ("ok", "That didn't work.")
    assert run(task, TURN_ON, LAMP, sent=chat("ok"), tools=TOOLS)[0].status == "abstained"
    assert run(task, UNSURE, LAMP, sent=failed, tools=TOOLS)[0].status == "abstained"


def test_results_of_calls_that_others_made_are_for_them_to_word() -> None:
    task = make(reply="Done.")
    assert run(task, UNSURE, LAMP, sent=chat("ok"), tools=TOOLS)[0].status == "abstained"
    assert run(task, TURN_ON, Pointed((1.0,)), sent=chat("ok"), tools=TOOLS)[0].status == "abstained"


def test_the_last_message_is_what_the_head_reads() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    outcome, _ = run(make(), TURN_ON, LAMP, sent={"messages": messages}, tools=TOOLS)
    assert outcome.result["tool_calls"][0]["arguments"] == {"name": "lamp"}


def test_a_value_for_a_list_is_a_list_of_one() -> None:
    tool = {"name": "a", "parameters": {"type": "object", "properties": {"domain": {"type": "array"}}}}
    assert call_of({"intent": "a", "domain": "light"}, [tool], "auto") == {
        "name": "a",
        "arguments": {"domain": ["light"]},
    }
    number = {"name": "a", "parameters": {"type": "object", "properties": {"domain": {"type": "number"}}}}
    assert call_of({"intent": "a", "domain": "light"}, [number], "auto") is None
    assert call_of({"domain": "light"}, [tool], "auto") is None


def test_a_name_may_have_a_prefix_and_digits_are_a_number() -> None:
    properties = {"brightness": {"type": "integer", "maximum": 100}}
    tool = {"name": "light__set", "parameters": {"type": "object", "properties": properties}}
    call = {"name": "light__set", "arguments": {"brightness": 40}}
    assert call_of({"intent": "set", "brightness": "40"}, [tool], "auto") == call
    assert call_of({"intent": "set", "brightness": "400"}, [tool], "auto") is None
    assert call_of({"intent": "set", "brightness": "bright"}, [tool], "auto") is None
    assert call_of({"intent": "light"}, [tool], "auto") is None


@pytest.mark.parametrize(
    ("content", "failed"),
    [
        ("done", False),
        ('{"data": 1, "error": null}', False),
        ('{"error": "no"}', True),
        ('["error"]', False),
    ],
)
def test_what_is_a_failure(content: str, failed: bool) -> None:
    assert is_failure(content) is failed


def test_other_learned_tasks_call_no_tools() -> None:
    section = TaskSection.model_validate({"kind": "generate", "learned": "/learned/topic"}, strict=False)
    with pytest.raises(ConfigError, match="generate takes a trained head of kind extract"):
        make_task("assist", section, head_bundle())
