from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Cost, Output, Read
from edgeslm.errors import InvalidRequest, TooLong
from edgeslm.messages import Request
from edgeslm.tasks.rerank import LONGEST_TOKEN, Rerank
from edgeslm.tasks.task import Outcome
from tests.support.fakes import FakeEngine

TASK = Rerank("rerank:model:small", TaskSection(model="small"), None, None, 100)


def run(engine: FakeEngine, documents: list[str], **limits: Any) -> Outcome:
    sent = Request(TASK.name, {"query": "hot?", "documents": documents, **limits}, "1", "r")
    TASK.check_input(sent)
    return asyncio.run(TASK.run(sent, engine, None))


def test_the_longest_documents_are_read_first() -> None:
    engine = FakeEngine(
        Output(Cost(prompt_tokens=7), probabilities=(0.5, 0.4, 0.3, 0.2)),
        Output(Cost(prompt_tokens=2), probabilities=(0.1,), cut=(0,)),
    )
    outcome = run(engine, ["a", "bbb", "cc", "ddddd", "eeee"], max_tokens_per_doc=9)
    assert engine.calls == [Read("hot?", ("ddddd", "eeee", "bbb", "cc"), 9), Read("hot?", ("a",), 9)]
    assert outcome.result == {"relevance": [0.1, 0.3, 0.2, 0.5, 0.4], "cut": [0]}
    assert outcome.cost.prompt_tokens == 9
    jsonschema.validate(outcome.result, TASK.result_schema())


def test_a_limit_is_at_most_the_context() -> None:
    engine = FakeEngine(*[Output(probabilities=(0.5,))] * 2)
    run(engine, ["a"], max_tokens_per_doc=4096)
    run(engine, ["a"])
    assert engine.calls == [Read("hot?", ("a",), 100)] * 2


def test_what_is_cut_before_it_is_read_is_cut_too() -> None:
    """Such as spaces, many of which are one token."""
    engine = FakeEngine(Output(probabilities=(0.5,)))
    assert run(engine, [" " * 1000], max_tokens_per_doc=2).result["cut"] == [0]
    assert engine.calls == [Read("hot?", (" " * 2 * LONGEST_TOKEN,), 2)]


def test_no_document_is_cut_without_truncate() -> None:
    outputs = Output(probabilities=(0.5,) * 4, cut=(1,)), Output(probabilities=(0.5,))
    with pytest.raises(TooLong, match="document 3 has more than 9 tokens"):
        run(FakeEngine(*outputs), ["a", "b", "cc", "ddd", "e"], max_tokens_per_doc=9, truncate=False)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_tokens_per_doc": 1.5}, "max_tokens_per_doc must be a whole number above 0"),
        ({"truncate": 1}, "truncate must be true or false"),
        ({"top_n": 1}, "the input must be an object with query, a text, and documents"),
    ],
)
def test_wrong_limits(limits: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        run(FakeEngine(), ["a"], **limits)
