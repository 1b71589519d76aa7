from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pytest

from edgeslm.bundle import HeadSection
from edgeslm.config import Task as TaskSection
from edgeslm.engine.calls import Classify, Cost, Output, Score, Text
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request, Truncated
from edgeslm.tasks import Outcome, Task, make_task
from tests.fakes import FakeEngine

HEAD = HeadSection(task="t", labels=("spam", "ham"), encoder="sha256:0", temperature=1.0, rows=9)
COST = Cost(1.0, 2.0, 3, 4)


def make(head: HeadSection | None = None, **fields: Any) -> Task:
    section = {"kind": "classify", "model": "small", "labels": {"normal": "all is well", "critical": ""}}
    return make_task("triage", TaskSection.model_validate({**section, **fields}, strict=False), head)


def request(text: Any = "Fire!", **options: Any) -> Request:
    return Request("triage", text, "1", "r", options=options)


def run(task: Task, engine: FakeEngine, sent: Request | None = None) -> Outcome:
    sent = sent or request()
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


def score_of(engine: FakeEngine) -> Score:
    (call,) = engine.calls
    assert isinstance(call, Score)
    return call


def test_scores_the_labels() -> None:
    engine = FakeEngine(Output(COST, probabilities=(0.2, 0.8), truncated=Truncated(3, 9)))
    outcome = run(make(), engine)
    assert outcome == Outcome(
        "ok",
        {
            "label": "critical",
            "confidence": 0.8,
            "scores": {"normal": 0.2, "critical": 0.8},
            "stage": "small",
        },
        COST,
        Truncated(3, 9),
    )
    call = score_of(engine)
    assert call.labels == ("normal", "critical")
    system, user = call.prompt.turns
    assert (system.role, user.role) == ("system", "user")
    assert "".join(map(str, system.parts)) == (
        "Which label fits the message?\nLabels:\n- normal: all is well\n- critical\n"
        "Answer with one label and nothing else."
    )
    assert user.parts == (Text("Fire!", cut=True),)


def test_the_same_prompt_for_each_message_but_for_the_message() -> None:
    engines = [FakeEngine(Output(probabilities=(0.5, 0.5))) for _ in range(2)]
    for engine, text in zip(engines, ("one", "two"), strict=True):
        run(make(), engine, request(text))
    first, second = (score_of(engine).prompt.turns for engine in engines)
    assert first[:-1] == second[:-1]


@pytest.mark.parametrize(
    ("threshold", "status"), [(0.0, "ok"), (0.5, "ok"), (0.8, "ok"), (0.81, "abstained"), (1.0, "abstained")]
)
def test_abstains_below_its_threshold(threshold: float, status: str) -> None:
    outcome = run(make(threshold=threshold), FakeEngine(Output(probabilities=(0.2, 0.8))))
    assert outcome.status == status
    assert outcome.result["label"] == "critical", "what it would have said is there all the same"


def test_examples_are_turns_before_the_message() -> None:
    engine = FakeEngine(Output(probabilities=(0.2, 0.8)))
    examples = [{"input": "Smoke", "output": "critical"}, {"input": "Fine", "output": "normal"}]
    run(make(examples=examples, instruction="How urgent?", overflow="tail"), engine)
    prompt = score_of(engine).prompt
    assert [turn.role for turn in prompt.turns] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert [turn.parts[0] for turn in prompt.turns[1:5]] == ["Smoke", "critical", "Fine", "normal"]
    assert str(prompt.turns[0].parts[0]).startswith("How urgent?")
    assert prompt.overflow == "tail"


@pytest.mark.parametrize("labels", [["a", "b"], {"a": "", "b": ""}])
def test_labels_of_the_sender(labels: Any) -> None:
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)))
    outcome = run(make(allow=["labels"]), engine, request(labels=labels))
    assert outcome.result["scores"] == {"a": 0.9, "b": 0.1}
    assert score_of(engine).labels == ("a", "b")


def test_labels_of_the_sender_are_text_from_outside() -> None:
    """Special tokens in them must stay text: they stand in the instruction."""
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)))
    sent = request(labels={"a<|im_end|>": "\ue0000\ue001", "b": "<|im_start|>"})
    run(make(allow=["labels"]), engine, sent)
    parts = score_of(engine).prompt.turns[0].parts
    ours = [part for part in parts if isinstance(part, str)]
    assert not any("<|" in part or "\ue000" in part for part in ours)
    assert Text("- a<|im_end|>: \ue0000\ue001\n- b: <|im_start|>") in parts


def test_a_learned_head() -> None:
    task = make(HEAD, labels=None, model=None, learned="/learned/t", threshold=0.95)
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)))
    outcome = run(task, engine)
    assert outcome.status == "abstained"
    assert outcome.result["scores"] == {"spam": 0.9, "ham": 0.1}
    assert outcome.result["stage"] == "learned"
    assert engine.calls == [Classify("Fire!", "/learned/t", "error")]


def test_a_learned_task_without_a_kind_is_classify() -> None:
    section = TaskSection.model_validate({"learned": "/learned/t"}, strict=False)
    assert make_task("t", section, HEAD).kind == "classify"


@pytest.mark.parametrize(
    ("sent", "task", "words"),
    [
        (request(labels=["a", "b"]), make(), "'labels'"),
        (request(stream=True), make(), r"allows: deadline_ms, priority"),
        (request(priority=1), make(allow=[]), "allows: none"),
        (request({"text": "x"}), make(), "takes a text"),
        (request(labels=["a", "b"]), make(HEAD, learned="/l", allow=["labels"]), "are learned"),
    ],
)
def test_refusals(sent: Request, task: Task, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        task.check(sent)
