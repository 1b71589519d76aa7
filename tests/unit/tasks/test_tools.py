"""Tool calls and JSON of ``generate``: what the engine is asked, and what comes of its answers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.task_kinds import POSSIBLE
from edgeslm.engine.calls import Call, CallRule, Cost, Generate, Output, ToolCall
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks import Task, make_task
from edgeslm.tasks.task import Outcome

TURN_ON = {
    "name": "turn_on",
    "description": "Turns a device on",
    "parameters": {
        "type": "object",
        "properties": {"device": {"type": "string"}},
        "required": ["device"],
    },
}
WEATHER = {"name": "weather"}
TOOLS = [TURN_ON, WEATHER]


def make() -> Task:
    section = {"kind": "generate", "model": "small", "allow": list(POSSIBLE["generate"])}
    return make_task("say", TaskSection.model_validate(section, strict=False))


class Engine:
    """Answers with the outputs, the last one again and again."""

    def __init__(self, *outputs: Output) -> None:
        self.outputs = list(outputs) or [Output(Cost(prompt_tokens=1), text="Hello", finish_reason="stop")]
        self.calls: list[Generate] = []

    async def __call__(self, call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
        assert isinstance(call, Generate)
        self.calls.append(call)
        return self.outputs.pop(0) if len(self.outputs) > 1 else self.outputs[0]


def calling(*calls: tuple[str, str], text: str = "", finish_reason: str = "stop") -> Output:
    made = tuple(ToolCall(*call) for call in calls)
    return Output(Cost(prompt_tokens=1), text=text, finish_reason=finish_reason, calls=made)


def run(engine: Engine, sent: Any = "On!", **options: Any) -> Outcome:
    task, request = make(), Request("say", sent, "1", "r", options=options)
    task.check(request)
    outcome = asyncio.run(task.run(request, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


def test_a_call_is_written_under_the_schemas_of_the_tools() -> None:
    engine = Engine(calling(("turn_on", '{"device": "light"}')))
    outcome = run(engine, tools=TOOLS)
    assert outcome.result == {
        "text": "",
        "finish_reason": "tool_calls",
        "tool_calls": [{"name": "turn_on", "arguments": {"device": "light"}}],
    }
    (call,) = engine.calls
    assert call.calls == CallRule(("turn_on", "weather"), most=8, or_text=True)
    lamp, weather = call.prompt.tools
    assert (lamp.name, json.loads(lamp.shown)) == ("turn_on", TURN_ON)
    schema = json.loads(lamp.schema)
    assert schema["properties"]["device"]["maxLength"] == 200
    assert schema["additionalProperties"] is False
    assert json.loads(weather.schema) == {"type": "object", "additionalProperties": False}


def test_a_number_beyond_all_bounds_is_the_largest_one() -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "number", "maximum": 9}}, "required": ["x"]}
    tools = [{"name": "f", "parameters": parameters}]
    engine = Engine(calling(("f", '{"x": -1e999}')))
    (call,) = run(engine, tools=tools, tool_choice="required").result["tool_calls"]
    assert call["arguments"] == {"x": -sys.float_info.max}
    result = run(Engine(calling(("f", '{"x": 1e999}'))), tools=tools, tool_choice="required").result
    assert "tool_calls" not in result, "it doesn't fit the schema"


def test_several_calls_each_once() -> None:
    lamp, fan = ("turn_on", '{"device": "lamp"}'), ("turn_on", '{"device": "fan"}')
    result = run(Engine(calling(lamp, fan, lamp, text="Sure. ")), tools=TOOLS).result
    assert [call["arguments"]["device"] for call in result["tool_calls"]] == ["lamp", "fan"]
    assert result["text"] == "Sure. "


def test_optional_arguments_that_are_empty_are_left_out() -> None:
    properties = {name: {"type": "string"} for name in ("name", "area")}
    parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": ["name"]}
    engine = Engine(calling(("turn_on", '{"name": "", "area": ""}')))
    tools = [{"name": "turn_on", "parameters": parameters}]
    calls = run(engine, tools=tools, tool_choice="required").result["tool_calls"]
    assert calls == [{"name": "turn_on", "arguments": {"name": ""}}]
    parameters["minProperties"] = 2
    calls = run(engine, tools=tools, tool_choice="required").result["tool_calls"]
    assert calls == [{"name": "turn_on", "arguments": {"name": "", "area": ""}}]


def test_an_answer_in_words() -> None:
    engine = Engine(calling(text="It is warm."))
    assert run(engine, tools=TOOLS).result == {"text": "It is warm.", "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"tool_choice": "required"}, CallRule(("turn_on", "weather"), 8, or_text=False)),
        ({"tool_choice": "weather"}, CallRule(("weather",), 8, or_text=False)),
        ({"tool_choice": "none"}, None),
        ({"parallel_tool_calls": False}, CallRule(("turn_on", "weather"), 1, or_text=True)),
    ],
)
def test_a_choice_of_the_sender(options: dict[str, Any], rule: CallRule | None) -> None:
    engine = Engine()
    run(engine, tools=TOOLS, **options)
    (call,) = engine.calls
    assert call.calls == rule
    assert [tool.name for tool in call.prompt.tools] == ["turn_on", "weather"]


def test_a_call_that_was_made_already_is_not_made_again() -> None:
    call = {"name": "turn_on", "arguments": {"device": "light"}}
    messages = [
        {"role": "user", "content": "On!"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    again = calling(("turn_on", '{"device": "light"}'))
    engine = Engine(again, calling(text="It is on."))
    outcome = run(engine, {"messages": messages}, tools=TOOLS)
    assert outcome.result == {"text": "It is on.", "finish_reason": "stop"}
    assert outcome.cost.prompt_tokens == 2
    assert [asked.calls is None for asked in engine.calls] == [False, True]
    later = [*messages, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Again!"}]
    assert run(Engine(again), {"messages": later}, tools=TOOLS).result["tool_calls"] == [call]


def test_a_call_that_is_cut_is_none() -> None:
    engine = Engine(calling(finish_reason="length"))
    assert run(engine, tools=TOOLS).result == {"text": "", "finish_reason": "length"}
    assert len(engine.calls) == 1, "to read all tools again for another grammar would take too long"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": "auto"}, "tool_choice needs options.tools"),
        ({"tools": TOOLS, "tool_choice": "dance"}, "no tool 'dance'"),
        ({"tools": [WEATHER, WEATHER]}, "two tools have the same name"),
        ({"tools": [{"name": "a", "parameters": {"type": "object", "properties": {"b": 1}}}]}, "a: param"),
        ({"tools": [{"name": "a", "parameters": {"type": "never"}}]}, "a: parameters"),
        ({"schema": {"type": "string"}}, "options.schema"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        run(Engine(), **options)


@pytest.mark.parametrize("nothing", [[], "", 0, None])
def test_a_tool_without_arguments_needs_no_valid_schema(nothing: Any) -> None:
    tools = [{"name": "stop", "parameters": {"type": "object", "properties": nothing, "required": nothing}}]
    result = run(Engine(calling(("stop", "{}"))), tools=tools, tool_choice="required").result
    assert result["tool_calls"] == [{"name": "stop", "arguments": {}}]


def test_the_patterns_of_all_tools_are_bounded_together() -> None:
    def tool(number: int) -> dict[str, Any]:
        field = {"type": "string", "pattern": f"a{{15000}}{number}"}
        return {"name": f"t{number}", "parameters": {"type": "object", "properties": {"a": field}}}

    run(Engine(), tools=[tool(1), tool(2)])
    with pytest.raises(InvalidRequest, match=r"t3: parameters: properties.a.pattern: .* too large"):
        run(Engine(), tools=[tool(number) for number in range(1, 9)])


def test_text_that_is_json() -> None:
    engine = Engine(calling(text='{"city":"Paris"}'))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert run(engine, schema=schema).result["text"] == '{"city":"Paris"}'
    (call,) = engine.calls
    assert isinstance(call, Generate) and call.guide is not None
    assert json.loads(call.guide.source)["properties"]["city"]["maxLength"] == 2000


def test_any_json_object() -> None:
    engine = Engine(calling(text="{}"))
    run(engine, schema={"type": "object"})
    (call,) = engine.calls
    assert isinstance(call, Generate) and call.guide is not None
    assert "additionalProperties" not in json.loads(call.guide.source)
