"""Tool calls and JSON of ``generate``: what the engine is asked, and what comes of its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.task_kinds import POSSIBLE
from edgeslm.engine.calls import Call, Cost, Generate, Output, Score, Text
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
    """Prefers a label, and writes the same text each time."""

    def __init__(self, label: str = "", text: str = "Hello") -> None:
        self.label = label
        self.text = text
        self.calls: list[Call] = []

    async def __call__(self, call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
        self.calls.append(call)
        if isinstance(call, Score):
            shares = tuple(float(label == self.label) for label in call.labels)
            return Output(Cost(prompt_tokens=1), probabilities=shares)
        return Output(Cost(prompt_tokens=1), text=self.text, finish_reason="stop")


def run(engine: Engine, sent: Any = "On!", **options: Any) -> Outcome:
    task, request = make(), Request("say", sent, "1", "r", options=options)
    task.check(request)
    outcome = asyncio.run(task.run(request, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


def test_a_call_is_chosen_by_labels_and_written_under_its_schema() -> None:
    engine = Engine("turn_on", '{"device":"light"}')
    outcome = run(engine, tools=TOOLS)
    assert outcome.result == {
        "text": "",
        "finish_reason": "tool_calls",
        "tool_calls": [{"name": "turn_on", "arguments": {"device": "light"}}],
    }
    chosen, written = engine.calls
    assert isinstance(chosen, Score) and isinstance(written, Generate)
    assert chosen.labels == ("turn_on", "weather", "none")
    assert written.guide is not None
    schema = json.loads(written.guide.source)
    assert schema["properties"]["device"]["maxLength"] == 200
    assert schema["additionalProperties"] is False
    assert outcome.cost.prompt_tokens == 2
    system = chosen.prompt.turns[0]
    assert system.role == "system"
    assert [type(part) for part in system.parts if "turn_on" in str(part)] == [Text]


def test_optional_arguments_that_are_empty_are_left_out() -> None:
    properties = {name: {"type": "string"} for name in ("name", "area")}
    parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": ["name"]}
    engine = Engine(text='{"name":"","area":""}')
    tools = [{"name": "turn_on", "parameters": parameters}]
    calls = run(engine, tools=tools, tool_choice="required").result["tool_calls"]
    assert calls == [{"name": "turn_on", "arguments": {"name": ""}}]
    parameters["minProperties"] = 2
    calls = run(engine, tools=tools, tool_choice="required").result["tool_calls"]
    assert calls == [{"name": "turn_on", "arguments": {"name": "", "area": ""}}]


def test_a_tool_without_parameters_needs_no_writing() -> None:
    engine = Engine("weather")
    assert run(engine, tools=TOOLS).result["tool_calls"] == [{"name": "weather", "arguments": {}}]
    assert len(engine.calls) == 1


def test_an_answer_in_words() -> None:
    engine = Engine("none", "It is warm.")
    outcome = run(engine, tools=TOOLS)
    assert outcome.result == {"text": "It is warm.", "finish_reason": "stop"}
    last = engine.calls[-1]
    assert isinstance(last, Generate) and last.stop == ("<tool_call>",)


@pytest.mark.parametrize(
    ("choice", "labels"),
    [("required", ("turn_on", "weather")), ("weather", None), ("none", None)],
)
def test_a_choice_of_the_sender(choice: str, labels: tuple[str, ...] | None) -> None:
    engine = Engine("weather")
    result = run(engine, tools=TOOLS, tool_choice=choice).result
    assert ("tool_calls" in result) is (choice != "none")
    assert [call.labels for call in engine.calls if isinstance(call, Score)] == ([labels] if labels else [])


def test_a_call_that_was_made_already_is_not_made_again() -> None:
    call = {"name": "turn_on", "arguments": {"device": "light"}}
    messages = [
        {"role": "user", "content": "On!"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    engine = Engine("turn_on", '{"device":"light"}')
    assert "tool_calls" not in run(engine, {"messages": messages}, tools=TOOLS).result
    again = [*messages, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Again!"}]
    assert run(engine, {"messages": again}, tools=TOOLS).result["tool_calls"] == [call]


def test_arguments_that_are_cut_are_no_call() -> None:
    engine = Engine("turn_on", '{"device":"li')
    assert run(engine, tools=TOOLS).result == {"text": "", "finish_reason": "length"}
    assert len(engine.calls) == 3  # the second time with shorter limits


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": "auto"}, "tool_choice needs options.tools"),
        ({"tools": TOOLS, "tool_choice": "dance"}, "no tool 'dance'"),
        ({"tools": [WEATHER, WEATHER]}, "two tools have the same name"),
        ({"tools": [{"name": "none"}]}, "can't be called 'none'"),
        ({"tools": [{"name": "a", "parameters": {"type": "object", "properties": {"b": 1}}}]}, "a: param"),
        ({"schema": {"type": "string"}}, "options.schema"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        run(Engine(), **options)


def test_text_that_is_json() -> None:
    engine = Engine(text='{"city":"Paris"}')
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert run(engine, schema=schema).result["text"] == '{"city":"Paris"}'
    (call,) = engine.calls
    assert isinstance(call, Generate) and call.guide is not None
    assert json.loads(call.guide.source)["properties"]["city"]["maxLength"] == 2000


def test_any_json_object() -> None:
    engine = Engine(text="{}")
    run(engine, schema={"type": "object"})
    (call,) = engine.calls
    assert isinstance(call, Generate) and call.guide is not None
    assert "additionalProperties" not in json.loads(call.guide.source)
