from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pytest

from edgeslm.config import Task as TaskSection
from edgeslm.engine.calls import Generate, Output, Text, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request, Truncated
from edgeslm.tasks import Task, make_task
from tests.fakes import FakeEngine


def make(**fields: Any) -> Task:
    section = {"kind": "summarize", "model": "small", **fields}
    return make_task("brief", TaskSection.model_validate(section, strict=False))


def test_summarizes() -> None:
    engine = FakeEngine(Output(text=" Short. ", truncated=Truncated(5, 9)), chunks=[" Short", ". "])
    chunks: list[str] = []
    task = make(overflow="middle", examples=[{"input": "long", "output": "short"}])
    sent = Request("brief", "A long text", "1", "r", options={"max_tokens": 5, "stream": True})
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, chunks.append))
    jsonschema.validate(outcome.result, task.result_schema())
    assert outcome.result == {"text": "Short.", "sources": ["input"]}
    assert outcome.truncated == Truncated(5, 9)
    assert chunks == [" Short", ". "]
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert (call.max_tokens, call.stream, call.prompt.overflow) == (5, True, "middle")
    assert call.prompt.turns == (
        Turn("system", ("Summarize the text in one or two short sentences.",)),
        Turn("user", ("long",)),
        Turn("assistant", ("short",)),
        Turn("user", (Text("A long text", cut=True),)),
    )


def test_an_instruction_of_ones_own() -> None:
    engine = FakeEngine(Output(text="x"))
    asyncio.run(make(instruction="In French.").run(Request("brief", "x", "1", "r"), engine, None))
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert call.prompt.turns[0] == Turn("system", ("In French.",))


def test_an_object_is_no_text() -> None:
    with pytest.raises(InvalidRequest, match="task brief takes a text"):
        make().check(Request("brief", {"a": 1}, "1", "r"))
