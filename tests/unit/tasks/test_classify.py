from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pytest

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Classify, Cost, Output, Score, Text, Turn
from edgeslm.errors import ConfigError, InvalidRequest
from edgeslm.messages import Request, Truncated
from edgeslm.tasks import Outcome, Task, make_task
from edgeslm.tasks.classify import CONTENT_FREE, LabelSample, mark_of
from tests.support.fakes import FakeEngine
from tests.support.taught import CLASSIFY, EXTRACT, RISK, adapter_bundle, calibration, head_bundle

COST = Cost(1.0, 2.0, 3, 4)


def make(**fields: Any) -> Task:
    section = {"kind": "classify", "model": "small", "labels": {"normal": "all is well", "critical": ""}}
    return make_task("triage", TaskSection.model_validate({**section, **fields}, strict=False))


def make_learned(bundle: Bundle, **fields: Any) -> Task:
    section = {"learned": str(bundle.path), **fields}
    return make_task("triage", TaskSection.model_validate(section, strict=False), bundle)


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
            "taught": False,
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


@pytest.mark.parametrize(
    ("sent", "task", "words"),
    [
        (request(labels=["a", "b"]), make(), "'labels'"),
        (request(stream=True), make(), r"allows: deadline_ms, priority"),
        (request(priority=1), make(allow=[]), "allows: none"),
        (request({"text": "x"}), make(), "takes a text"),
        (request(labels=["a", "b"]), make_learned(head_bundle(), allow=["labels"]), "are learned"),
    ],
)
def test_refusals(sent: Request, task: Task, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        task.check(sent)


# -- label bias ------------------------------------------------------------------------------------


def test_a_measured_label_bias_is_removed() -> None:
    engine = FakeEngine(Output(probabilities=(0.6, 0.4)))
    outcome = run(make(calibration={"critical": 0.2, "normal": 0.8}), engine)
    assert outcome.result["label"] == "critical"
    assert outcome.result["scores"] == pytest.approx({"normal": 3 / 11, "critical": 8 / 11})
    assert len(engine.calls) == 1, "nothing is measured on the device"


def test_a_measured_label_bias_is_not_that_of_other_labels() -> None:
    engine = FakeEngine(Output(probabilities=(0.6, 0.4)))
    task = make(calibration={"normal": 0.8, "critical": 0.2}, allow=["labels"])
    assert run(task, engine, request(labels=["a", "b"])).result["scores"] == {"a": 0.6, "b": 0.4}


def test_contextual_calibration_measures_the_bias_once() -> None:
    biased = [Output(probabilities=(0.9, 0.1))] * len(CONTENT_FREE)
    engine = FakeEngine(Output(probabilities=(0.6, 0.4)), *biased, Output(probabilities=(0.9, 0.1)))
    task = make(calibration="contextual")
    assert run(task, engine).result["label"] == "critical"
    assert run(task, engine).result["scores"] == pytest.approx({"normal": 0.5, "critical": 0.5})
    assert len(engine.calls) == 2 + len(CONTENT_FREE)


# -- what was taught -------------------------------------------------------------------------------


def test_a_learned_head() -> None:
    task = make_learned(head_bundle(), threshold=0.95)
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)))
    outcome = run(task, engine)
    assert outcome.status == "abstained"
    assert outcome.result["scores"] == {"spam": 0.9, "ham": 0.1}
    assert outcome.result["stage"] == "learned"
    assert engine.calls == [Classify("Fire!", "/learned/topic", "error", "sha256:1")]


def test_what_was_taught_brings_kind_and_labels() -> None:
    task = make_learned(head_bundle())
    assert task.kind == "classify"
    assert task.section.labels == {"spam": "", "ham": ""}
    assert task.result_schema()["properties"]["label"] == {"type": "string", "enum": ["spam", "ham"]}


def test_the_prompt_of_a_learned_adapter_holds_its_instruction_and_the_message() -> None:
    """What it was taught on: neither labels nor rules, which it knows."""
    bundle = adapter_bundle({**CLASSIFY, "instruction": "Spam or not?"})
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)))
    outcome = run(make_learned(bundle, overflow="tail", instruction="Something else"), engine)
    call = score_of(engine)
    assert call.prompt.turns == (Turn("system", ("Spam or not?",)), Turn("user", (Text("Fire!", cut=True),)))
    assert call.prompt.overflow == "tail"
    assert call.labels == ("spam", "ham")
    assert outcome.result["stage"] == "learned"


def test_an_adapter_that_was_taught_nothing_known_is_asked_in_words() -> None:
    section = TaskSection(kind="classify", model="small", labels={"a": "", "b": ""})
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)))
    run(make_task("triage", section, adapter_bundle(None)), engine)
    assert "- a\n- b" in score_of(engine).prompt.turns[0].parts


def test_labels_may_be_repeated_in_another_order() -> None:
    task = make_learned(head_bundle(), labels=["ham", "spam"])
    outcome = run(task, FakeEngine(Output(probabilities=(0.9, 0.1))))
    assert outcome.result["scores"] == {"spam": 0.9, "ham": 0.1}


@pytest.mark.parametrize(
    ("bundle", "fields", "problem"),
    [
        (head_bundle(), {"kind": "extract"}, "kind: extract, but the trained task is of kind classify"),
        (
            adapter_bundle(EXTRACT),
            {"kind": "classify"},
            "kind: classify, but the trained task is of kind extract",
        ),
        (
            head_bundle(),
            {"labels": ["spam", "eggs"]},
            "labels: the trained task already defines labels spam, ham; remove",
        ),
        (
            head_bundle(),
            {"examples": [{"input": "x", "output": "ham"}]},
            "examples: have no effect with a trained task; remove them",
        ),
        (adapter_bundle(None), {}, "kind: missing, and its bundle has no trained task"),
    ],
)
def test_a_section_that_contradicts_what_was_taught(
    bundle: Bundle, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^tasks\.triage\.{problem}"):
        make_learned(bundle, **fields)


# -- what its scores are worth ---------------------------------------------------------------------


def test_scores_are_calibrated() -> None:
    task = make_learned(head_bundle(calibration=calibration(scale=[0.5, 0.5])))
    outcome = run(task, FakeEngine(Output(probabilities=(0.9, 0.1))))
    assert outcome.result["scores"] == pytest.approx({"spam": 0.75, "ham": 0.25})
    assert outcome.result["confidence"] == outcome.result["scores"]["spam"]


def test_a_bias_can_change_the_label() -> None:
    task = make_learned(head_bundle(calibration=calibration(bias=[0.0, 3.0])))
    outcome = run(task, FakeEngine(Output(probabilities=(0.9, 0.1))))
    assert outcome.result["label"] == "ham"


def test_a_confidence_by_the_margin_is_held_against_the_threshold() -> None:
    fitted = calibration(margins=[0.0, 1.0], confidences=[0.5, 0.7])
    engine = FakeEngine(Output(probabilities=(0.9, 0.1)), Output(probabilities=(0.9, 0.1)))
    for threshold, status in ((0.65, "ok"), (0.67, "abstained")):
        task = make_learned(head_bundle(calibration=fitted), threshold=threshold)
        outcome = run(task, engine)
        assert outcome.result["confidence"] == pytest.approx(0.66)
        assert outcome.status == status


@pytest.mark.parametrize(
    ("max_error", "confidence", "status"),
    [
        (0.1, 0.61, "ok"),
        (0.1, 0.59, "abstained"),
        (0.09, 0.89, "abstained"),
        (0.02, 0.91, "ok"),
        (0.2, 0.51, "ok"),
    ],
)
def test_a_wanted_error_sets_the_threshold(max_error: float, confidence: float, status: str) -> None:
    task = make_learned(head_bundle(calibration=calibration(risk=RISK)), max_error=max_error)
    outcome = run(task, FakeEngine(Output(probabilities=(confidence, 1 - confidence))))
    assert outcome.status == status


def test_an_error_that_cant_be_promised_is_refused() -> None:
    bundle = head_bundle(calibration=calibration(risk=RISK))
    with pytest.raises(ConfigError) as caught:
        make_learned(bundle, max_error=0.01)
    (problem,) = caught.value.problems
    assert problem.startswith("tasks.triage.max_error: 0.01 is not reachable")
    assert "guaranteed by its 50 held-out rows is 0.020" in problem


def test_what_a_teacher_taught_promises_no_error() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.triage\.max_error: error rates are unknown"):
        make_learned(head_bundle(calibration=calibration()), max_error=0.2)


@pytest.mark.parametrize(
    "bundle",
    [head_bundle(), adapter_bundle(CLASSIFY), adapter_bundle(None)],
)
@pytest.mark.parametrize(("confidence", "status"), [(0.81, "ok"), (0.79, "abstained")])
def test_without_a_calibration_a_model_is_taken_at_its_word(
    bundle: Bundle, confidence: float, status: str
) -> None:
    fields = {"kind": "classify", "labels": ["spam", "ham"], "max_error": 0.2}
    outcome = run(
        make_learned(bundle, **fields), FakeEngine(Output(probabilities=(1 - confidence, confidence)))
    )
    assert outcome.status == status


def test_corrections_that_begin_late_are_about_messages_of_the_sample() -> None:
    sample = LabelSample(300, 3000)
    for number in range(60_000):
        sample.add(f"note {number}", (0.5, 0.5), "normal")
    assert len(sample.kept) == 300
    late = sum(mark_of(f"note {number}") in sample.kept for number in range(59_000, 60_000))
    assert 50 < late < 150


def test_messages_that_come_often_dont_freeze_the_sample() -> None:
    sample = LabelSample(300, 3000)
    for number in range(60_000):
        text = f"note {number}" if number % 20 == 0 else f"heartbeat {number % 5}"
        sample.add(text, (0.5, 0.5), "normal")
    new = sum(mark_of(f"note {number}") in sample.kept for number in range(54_000, 60_000))
    assert new > 10
