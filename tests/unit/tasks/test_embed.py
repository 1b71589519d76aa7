from __future__ import annotations

import asyncio

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Cost, Embed, Output
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks import Task, make_task
from tests.support.fakes import FakeEngine


def make() -> Task:
    section = TaskSection.model_validate({"kind": "embed", "model": "encoder", "overflow": "head"})
    return make_task("vector", section)


def test_one_vector() -> None:
    engine = FakeEngine(Output(Cost(prompt_tokens=4), vectors=((0.6, 0.8),)))
    task = make()
    sent = Request("vector", "a text", "1", "r", options={"priority": 9})
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    assert (outcome.status, outcome.result) == ("ok", {"vector": [0.6, 0.8]})
    assert outcome.cost.prompt_tokens == 4
    assert engine.calls == [Embed(("a text",), "head")]


def test_refusals() -> None:
    with pytest.raises(InvalidRequest, match="takes a text"):
        make().check(Request("vector", {"text": "x"}, "1", "r"))
    with pytest.raises(InvalidRequest, match="'max_tokens'"):
        make().check(Request("vector", "x", "1", "r", options={"max_tokens": 1}))
