from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Generate, Output, Text, ToolCall, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks import Task, make_task
from tests.support.fakes import FakeEngine


def make(**fields: Any) -> Task:
    section = {"kind": "generate", "model": "small", **fields}
    return make_task("say", TaskSection.model_validate(section, strict=False))


def request(sent: Any, **options: Any) -> Request:
    return Request("say", sent, "1", "r", options=options)


def chat(*messages: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def turns_of(task: Task, sent: Any) -> tuple[Turn, ...]:
    engine = FakeEngine(Output(text="Hello", finish_reason="stop"))
    task.check(request(sent))
    outcome = asyncio.run(task.run(request(sent), engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    assert outcome.result == {"text": "Hello", "finish_reason": "stop"}
    (call,) = engine.calls
    assert isinstance(call, Generate)
    return call.prompt.turns


def test_a_text() -> None:
    assert turns_of(make(), "Hi") == (Turn("user", (Text("Hi", cut=True),)),)


def test_a_text_behind_the_tasks_instruction() -> None:
    turns = turns_of(make(instruction="Be brief."), "Hi")
    assert turns == (Turn("system", ("Be brief.",)), Turn("user", (Text("Hi", cut=True),)))


def test_a_chat_of_which_the_last_message_may_be_cut() -> None:
    sent = chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))
    assert turns_of(make(), sent) == (
        Turn("system", (Text("Be brief."),)),
        Turn("user", (Text("Hi"),)),
        Turn("assistant", (Text("Hello"),)),
        Turn("user", (Text("Why?", cut=True),)),
    )


def test_a_chat_behind_the_tasks_instruction() -> None:
    turns = turns_of(make(instruction="Be brief."), chat(("user", "Hi")))
    assert [turn.role for turn in turns] == ["system", "user"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "an input object of generate"),
        ({"message": []}, "an input object of generate"),
        ({"messages": "Hi"}, "an input object of generate"),
        ({"messages": [], "more": 1}, "an input object of generate"),
        ({"messages": []}, "last message must be"),
        ({"messages": ["Hi"]}, "message 1 must have role and content"),
        ({"messages": [{"role": "user"}]}, "message 1 must have role and content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "message 1 of role user may"),
        (
            {"messages": [{"role": "user", "content": "", "tool_calls": []}]},
            "message 1 of role user may",
        ),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": ["x"]}]}, "message 1: tool_calls"),
        (chat(("user", "x"), ("judge", "x")), "message 2: role must be one of system, user, assistant"),
        (chat(([], "x")), "message 1: role must be"),
        (chat((None, "x")), "message 1: role must be"),
        (chat(("user", None)), "message 1: content must be a text"),
        (chat(("user", [{"type": "text", "text": "x"}])), "message 1: content must be a text"),
        (chat(("user", "x"), ("assistant", "y")), "last message must be"),
        (chat(("system", "x")), "last message must be"),
        (chat(("user", "x"), ("system", "y"), ("user", "z")), "can only be the first"),
        (chat(("system", "x"), ("system", "y"), ("user", "z")), "can only be the first"),
    ],
)
def test_what_is_no_chat(sent: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make().check(request(sent))


def test_a_system_message_comes_after_the_tasks_own() -> None:
    turns = turns_of(make(instruction="Be brief."), chat(("system", "x"), ("user", "y")))
    assert turns[0] == Turn("system", ("Be brief.", "\n\n", Text("x")))


def test_calls_and_their_results_are_turns_of_their_own() -> None:
    call = {"name": "turn_on", "arguments": {"device": "light"}}
    messages = [
        {"role": "user", "content": "On!"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
        {"role": "user", "content": "Thanks"},
    ]
    turns = turns_of(make(), {"messages": messages})
    assert turns[1] == Turn("assistant", (), (ToolCall("turn_on", '{"device": "light"}'),))
    assert turns[2:] == (Turn("tool", (Text("done"),)), Turn("user", (Text("Thanks", cut=True),)))


def test_options_that_are_not_allowed() -> None:
    with pytest.raises(InvalidRequest, match="'labels'"):
        make().check(request("Hi", labels=["a", "b"]))
    with pytest.raises(InvalidRequest, match="'temperature'"):
        make(allow=["max_tokens"]).check(request("Hi", temperature=1.0))
    make(allow=["max_tokens"]).check(request("Hi", max_tokens=1))


def test_options_over_the_tasks_own() -> None:
    engine = FakeEngine(Output(text="a", finish_reason="length"), chunks=["a"])
    chunks: list[str] = []
    task = make(max_tokens=9, stop=["END"], temperature=0.7, overflow="head")
    sent = request("Hi", max_tokens=3, stream=True, seed=5)
    outcome = asyncio.run(task.run(sent, engine, chunks.append))
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert (call.max_tokens, call.stop, call.stream, call.guide) == (3, ("END",), True, None)
    assert (call.sampling.temperature, call.sampling.seed) == (0.7, 5)
    assert call.prompt.overflow == "head"
    assert chunks == ["a"]
    jsonschema.validate(outcome.result, task.result_schema())
