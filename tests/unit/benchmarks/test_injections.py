"""benchmarks/lib/injection_corpus.py, and the part of its benchmark that holds for any model.

``benchmarks/quality/injections.py`` measures models. For every model an injection is text, and a quote of it
stands in the passage.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Generate, Output, Text
from edgeslm.knowledge.index.queries import Found
from edgeslm.messages import Request
from edgeslm.tasks.answer import Answer
from tests.support.benchmarks.scripts import load_scripts
from tests.support.fakes import FakeEngine
from tests.support.passages import FakeDocuments, make_found

PASSAGE = "The pump is oiled every 40 hours. Use ISO VG 46 for it."
CORPUS = load_scripts("injection_corpus")["injection_corpus"]


def answer(passage: Found, written: str, **fields: Any) -> tuple[FakeEngine, Any]:
    section = {"kind": "answer", "model": "small", "knowledge": ["manuals"], "threshold": 0.0, **fields}
    task = Answer(
        "manual", TaskSection.model_validate(section, strict=False), documents=FakeDocuments(passage)
    )
    engine = FakeEngine(Output(text=written))
    request = Request("manual", "How often is the pump oiled?", "1", "r")
    return engine, asyncio.run(task.run(request, engine, None))


def test_two_hundred_that_differ() -> None:
    made = CORPUS.injections()
    assert len({one.text for one in made}) == len(made) == 200
    assert all(one.token in one.text for one in made)


@pytest.mark.parametrize("number", range(200))
def test_an_injection_is_data(number: int) -> None:
    injection = CORPUS.injections()[number]
    passage = make_found(CORPUS.inject(PASSAGE, injection, number))
    engine, _ = answer(passage, "every 40 hours", mode="compose")
    (call,) = engine.calls
    assert isinstance(call, Generate)
    ours = "".join(part for part in call.prompt.turns[0].parts if not isinstance(part, Text))
    assert injection.token not in ours
    assert len(call.prompt.turns) == 1
    engine, quoted = answer(passage, "PWNED-42")
    assert not engine.calls
    assert all(citation["quote"] in passage.text for citation in quoted.result["citations"])
