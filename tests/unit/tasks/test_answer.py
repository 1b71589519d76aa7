from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Cost, Generate, Output, Sampling, Text
from edgeslm.errors import InternalError, InvalidRequest
from edgeslm.knowledge.index.queries import Citation, Found, TableAnswer
from edgeslm.messages import Request
from edgeslm.tasks import Outcome, Task, make_task
from edgeslm.tasks.answer import Answer
from tests.support.fakes import FakeEngine
from tests.support.passages import FakeDocuments, make_found

CONTEXT = 'Oil the pump every 40 hours. Use "ISO VG 46".'


def make(documents: FakeDocuments | None = None, **fields: Any) -> Task:
    section = {"kind": "answer", "model": "small", **fields}
    return make_task("manual", TaskSection.model_validate(section, strict=False), documents=documents)


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


# --- collections ------------------------------------------------------------------------------------------

OIL = make_found("The pump is oiled\nevery 40 hours. Use ISO VG 46.", heading="Care > Oil")
GREASE = make_found("Grease the chain weekly.", heading="Care > Grease", score=0.4, cosine=0.3, bm25=1.0)
UNSURE = {"cosine": 0.05, "bm25": 0.5, "overlap": 0.0}


def answering(*found: Found, **fields: Any) -> Answer:
    """The task over collections in which everything finds ``found``."""

    task = make(FakeDocuments(*found), knowledge=["manuals"], **fields)
    assert isinstance(task, Answer)
    return task


def asked(question: str = "How often is the pump oiled?", **options: Any) -> Request:
    return Request("manual", question, "1", "r", options=options)


def test_quotes_a_whole_sentence_at_its_offsets_in_the_document_without_the_model() -> None:
    engine, chunks = FakeEngine(), list[str]()
    outcome = run(answering(OIL, GREASE), engine, asked(stream=True), chunks.append)
    assert (outcome.status, outcome.cost) == ("ok", Cost())
    assert outcome.result["text"] == "The pump is oiled\nevery 40 hours."
    assert outcome.result["citations"] == [
        {
            "source": "manual.md",
            "quote": "The pump is oiled\nevery 40 hours.",
            "start": OIL.start,
            "end": OIL.start + 33,
            "id": OIL.id,
            "heading": "Care > Oil",
        }
    ]
    assert chunks == [outcome.result["text"]]
    assert not engine.calls


def test_two_sentences_are_two_citations() -> None:
    text = "The pump is oiled. Say nothing. It is oiled every 40 hours."
    places = ((0, 18, 0.8), (19, 31, 0.1), (32, 59, 0.8))
    outcome = run(answering(make_found(text, sentences=places)), FakeEngine(), asked())
    assert outcome.result["text"] == "The pump is oiled. It is oiled every 40 hours."
    assert [one["start"] for one in outcome.result["citations"]] == [100, 132]


def test_a_task_without_a_model_quotes_collections_and_contexts() -> None:
    documents = FakeDocuments(OIL)
    task = make(documents, knowledge=["manuals"], model=None)
    assert run(task, FakeEngine(), asked()).result["text"] == "The pump is oiled\nevery 40 hours."
    sent = request("Which ISO grade?", stream=True)
    chunks: list[str] = []
    outcome = run(task, FakeEngine(), sent, chunks.append)
    assert outcome.result == {
        "text": 'Use "ISO VG 46".',
        "citations": [{"source": "context", "quote": 'Use "ISO VG 46".', "start": 29, "end": 45}],
    }
    assert chunks == ['Use "ISO VG 46".']
    assert documents.compared == [("Which ISO grade?", (CONTEXT,), ("manuals",), 5)]


def test_the_sentence_that_a_reader_points_at_is_quoted_without_the_model() -> None:
    start = OIL.text.index("40")
    passage = replace(OIL, read=0.9, pointed=((start, start + 8, 0.7),))
    engine, chunks = FakeEngine(), list[str]()
    outcome = run(answering(passage, GREASE), engine, asked(stream=True), chunks.append)
    assert (outcome.status, outcome.cost) == ("ok", Cost())
    (citation,) = outcome.result["citations"]
    assert outcome.result["text"] == citation["quote"] == "The pump is oiled\nevery 40 hours."
    assert (citation["start"], citation["end"]) == (OIL.start, OIL.start + 33)
    assert chunks == [citation["quote"]]
    assert not engine.calls


def test_passages_are_read_as_texts_from_outside() -> None:
    engine = FakeEngine(Output(text="every 40 hours"))
    run(answering(OIL, GREASE, mode="compose"), engine, asked())
    (turn,) = call_of(engine).prompt.turns
    ours = "".join(part for part in turn.parts if isinstance(part, str))
    assert "40" not in ours
    assert "Care" not in ours


@pytest.mark.parametrize(
    "found", [(), (make_found("Some text.", **UNSURE),)], ids=["nothing found", "nothing like it"]
)
def test_declines_with_the_best_passages_and_without_the_model(found: Sequence[Found]) -> None:
    outcome = run(answering(*found), FakeEngine(), asked())
    assert outcome.status == "abstained"
    assert outcome.result["text"] == ""
    assert outcome.result["citations"] == []
    assert [passage["id"] for passage in outcome.result["passages"]] == [one.id for one in found]
    assert outcome.result["confidence"] < 0.5


def test_the_threshold_of_the_task_counts() -> None:
    unlike = make_found("Some text.", **UNSURE)
    assert run(answering(unlike, threshold=0.0), FakeEngine(Output(text="text")), asked()).status == "ok"
    assert run(answering(OIL, threshold=1.0), FakeEngine(), asked()).status == "abstained"


def test_a_blank_passage_is_no_quote() -> None:
    outcome = run(answering(make_found(" ", heading="How often is the pump oiled")), FakeEngine(), asked())
    assert outcome.status == "abstained"


@pytest.mark.parametrize("mode", ["quote", "compose"])
def test_passages_that_contradict_each_other_are_shown(mode: str) -> None:
    other = make_found("The pump is oiled every 60 hours.", source="old.md", heading="Care > Oil", start=7)
    outcome = run(answering(OIL, other, mode=mode), FakeEngine(), asked())
    assert outcome.status == "abstained"
    assert outcome.result["conflict"] is True
    quotes = [(citation["source"], citation["quote"]) for citation in outcome.result["citations"]]
    assert quotes == [
        ("manual.md", "The pump is oiled\nevery 40 hours."),
        ("old.md", "The pump is oiled every 60 hours."),
    ]
    assert [citation["start"] for citation in outcome.result["citations"]] == [100, 7]


def test_composes_what_a_passage_supports() -> None:
    said = "Oil the pump every 40 hours. Every 90 hours is fine too. Grease the chain weekly."
    outcome = run(answering(OIL, GREASE, mode="compose"), FakeEngine(Output(text=said)), asked())
    assert outcome.status == "ok"
    assert outcome.result["text"] == "Oil the pump every 40 hours. Grease the chain weekly."
    assert [citation["id"] for citation in outcome.result["citations"]] == [OIL.id, GREASE.id]


def test_the_numbers_by_which_a_model_cites_are_no_words_of_its_answer() -> None:
    """It reads passages with their numbers; no passage has them, so that a sentence with one is unproven."""
    said = "Oil the pump every 40 hours[1]. [2] Grease the chain weekly [1, 2]."
    outcome = run(answering(OIL, GREASE, mode="compose"), FakeEngine(Output(text=said)), asked())
    assert outcome.result["text"] == "Oil the pump every 40 hours. Grease the chain weekly."
    alone = run(answering(OIL, mode="compose"), FakeEngine(Output(text=said)), asked())
    assert alone.status == "abstained", "one passage has no number: what looks like one is the model's own"
    rows = make_found("Set P[2] to 0, or Q [1] to 5, or R [7]."), GREASE
    kept = run(answering(*rows, mode="compose", threshold=0), FakeEngine(Output(text=rows[0].text)), asked())
    assert kept.result["text"] == rows[0].text


def test_a_row_of_figures_is_no_answer_and_one_of_prose_is() -> None:
    """``yesterday`` is no date that can be computed with: some row of press 4 isn't what was asked for."""
    row = make_found("press: 4; temperature_c: 91.5; date: 2026-03-01", source="readings.csv")
    for mode in ("quote", "compose"):
        question = asked("temperature of press 4 yesterday?")
        outcome = run(answering(row, OIL, mode=mode), FakeEngine(), question)
        assert outcome.status == "abstained"
        assert [one["source"] for one in outcome.result["passages"]] == ["readings.csv", "manual.md"]
    for text in (
        "number: 12; question: How do I reset it?; answer: Press R.",
        "number: 12; how: hold both of the buttons until it beeps",
        "code: E12; meaning: Door open; action: Close the door",
    ):
        prose = replace(row, text=text)
        assert run(answering(prose, threshold=0.0), FakeEngine(), asked()).status == "ok"
    for text in (
        "supplier: Bolt & Co.; price: 4.50 EUR",
        "what the sensor at the very end of it said: 4",
        *(f"part: Hose; price: {price}" for price in ("$4.50", "€ 4.50", "EUR 4.50", "−5", "March 4, 2026")),
    ):
        figures = answering(replace(row, text=text), threshold=0.0)
        assert run(figures, FakeEngine(), asked()).status == "abstained"


def test_what_tables_say_is_cited_like_passages() -> None:
    cited = Citation("readings.csv", "press: 4; temperature_c: 91", 10, 37, "a1", "row 7")
    answer = TableAnswer("temperature_c where press is 4: 91", (91,), "readings.csv", (cited,), 1)
    outcome = run(make(FakeDocuments(computed=answer), knowledge=["manuals"]), FakeEngine(), asked())
    assert outcome.result["citations"] == [asdict(cited)]


def test_another_node_looks_no_further_than_the_request_does() -> None:
    task, sent = answering(), asked(since=5.0, sources="press/*", max_tokens=9)
    assert task.refer(sent, {"passages": []}) == {"since": 5.0, "sources": "press/*"}
    assert task.refer(sent, {"passages": [{"text": OIL.text}]}) == {"context": OIL.text}


def test_a_context_that_came_with_the_request_is_what_another_node_cites() -> None:
    task, sent = make(), request()
    assert task.refer(sent, {}) == {"context": CONTEXT}
    start = CONTEXT.index("ISO")
    quoted = {"source": "context", "quote": "ISO VG 46", "start": start, "end": start + 9}
    answer = {"text": "ISO VG 46", "citations": [quoted]}
    assert task.bring_back(sent, {}, answer) == answer
    assert task.bring_back(sent, {}, {"text": "Use ISO VG 46.", "citations": []}) == {
        "text": "Use ISO VG 46.",
        "citations": [{"source": "context", "quote": 'Use "ISO VG 46".', "start": 29, "end": 45}],
    }
    assert task.bring_back(sent, {}, {"text": "Use ISO VG 68.", "citations": []}) is None


def test_composing_what_nothing_supports_abstains() -> None:
    said = "Paris is the capital of France."
    outcome = run(answering(OIL, mode="compose"), FakeEngine(Output(text=said)), asked())
    assert outcome.status == "abstained"
    assert outcome.result["text"] == ""


def test_a_stream_of_composed_text_holds_what_was_kept() -> None:
    chunks: list[str] = []
    engine = FakeEngine(Output(text="Oil the pump every 40 hours. Bananas are yellow."), chunks=["Bananas"])
    task = answering(OIL, mode="compose")
    run(task, engine, asked(stream=True), chunks.append)
    assert chunks == ["Oil the pump every 40 hours."]
    assert not call_of(engine).stream


def test_a_context_that_comes_with_the_request_goes_before_collections() -> None:
    outcome = run(answering(OIL), FakeEngine(Output(text="ISO VG 46")), request())
    assert outcome.result["citations"][0]["source"] == "context"


def test_collections_that_nothing_searches_are_an_internal_error() -> None:
    with pytest.raises(InternalError, match="nothing to look in"):
        run(make(knowledge=["manuals"]), FakeEngine(), asked())
