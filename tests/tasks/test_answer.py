from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from edgeslm.config import Task as TaskSection
from edgeslm.engine.calls import Generate, Output, Sampling, Text
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks import Outcome, Task, make_task
from tests.fakes import FakeEngine

CONTEXT = 'Oil the pump every 40 hours. Use "ISO VG 46".'


def make(**fields: Any) -> Task:
    section = {"kind": "answer", "model": "small", **fields}
    return make_task("manual", TaskSection.model_validate(section, strict=False))


def request(question: Any = "Which oil?", context: Any = CONTEXT, **options: Any) -> Request:
    return Request("manual", question, "1", "r", options={"context": context, **options})


def run(task: Task, engine: FakeEngine, sent: Request | None = None, on_chunk: Any = None) -> Outcome:
    sent = sent or request()
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, on_chunk))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


def call_of(engine: FakeEngine) -> Generate:
    (call,) = engine.calls
    assert isinstance(call, Generate)
    return call


def test_quotes_the_context() -> None:
    engine = FakeEngine(Output(text=" ISO VG 46"))
    outcome = run(make(), engine)
    start = CONTEXT.index("ISO")
    assert outcome.status == "ok"
    assert outcome.result == {
        "text": "ISO VG 46",
        "citations": [{"source": "context", "quote": "ISO VG 46", "start": start, "end": start + 9}],
    }
    guide = call_of(engine).guide
    assert guide is not None
    assert guide.kind == "lark_grammar"
    assert json.dumps({"substring_words": CONTEXT}) in guide.source
    assert "\n" not in guide.source.split("%regex ")[1], (
        "no line of the context can become one of the grammar"
    )


def test_the_context_may_be_cut_and_the_question_not() -> None:
    engine = FakeEngine(Output(text="x"))
    run(make(overflow="tail"), engine)
    prompt = call_of(engine).prompt
    texts = [part for turn in prompt.turns for part in turn.parts if isinstance(part, Text)]
    assert texts == [Text(CONTEXT, cut=True), Text("Which oil?")]
    assert prompt.overflow == "tail"


def test_an_empty_quote_abstains() -> None:
    outcome = run(make(), FakeEngine(Output(text=" ")))
    assert outcome.status == "abstained"
    assert outcome.result == {"text": "", "citations": []}


def test_composes() -> None:
    engine = FakeEngine(Output(text="You need ISO oil."))
    outcome = run(make(mode="compose"), engine)
    assert outcome.status == "ok"
    assert outcome.result == {"text": "You need ISO oil.", "citations": []}
    assert call_of(engine).guide is None
    quoting = run(make(mode="compose"), FakeEngine(Output(text="every 40 hours")))
    assert [citation["quote"] for citation in quoting.result["citations"]] == ["every 40 hours"]


def test_options_go_to_the_engine() -> None:
    engine = FakeEngine(Output(text="x"), chunks=["x"])
    chunks: list[str] = []
    sent = request(max_tokens=7, temperature=0.5, top_p=0.9, seed=3, stop=["\n"], stream=True)
    run(make(repetition_penalty=1.2), engine, sent, chunks.append)
    call = call_of(engine)
    assert (call.max_tokens, call.stop, call.stream) == (7, ("\n",), True)
    assert call.sampling == Sampling(0.5, 0.9, 1.2, 3)
    assert chunks == ["x"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (Request("manual", "Which oil?", "1", "r"), r"send it as options\.context"),
        (request(context=" \n"), r"send it as options\.context"),
        (request({"question": "x"}), "takes a text"),
        (request(schema={}), "'schema'"),
    ],
)
def test_refusals(sent: Request, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make().check(sent)
