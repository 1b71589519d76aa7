"""classify and extract by an encoder that was never trained for the labels or fields."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pytest

from edgeslm.bundle.zero_shot import MOST_LABELS, Gliclass, Gliner, Nli, ZeroShotSection
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import FindSpans, LabelText, Output
from edgeslm.errors import ConfigError, InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks import Outcome, Task, make_task
from tests.support.fakes import FakeEngine

GLICLASS = Gliclass(label_token=5, text_token=6)
GLINER = Gliner(label_token=5, text_token=6, longest=8, most_words=100)
NLI = Nli(classes=3, entailment=0)
MESSAGE = "Press 4 has 81.5 degrees, says Ann Bo."
SCHEMA = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "description": "name of a machine"},
        "temperature_c": {"type": "number"},
        "people": {"type": "array", "items": {"type": "string"}},
        "state": {"enum": ["Hot", "Cold"]},
    },
    "required": ["machine"],
}


def make(model: ZeroShotSection = GLICLASS, **fields: Any) -> Task:
    section = {"kind": "classify", "model": "small", "labels": {"all_is_well": "", "hot": "too warm"}}
    return make_task("t", TaskSection.model_validate({**section, **fields}, strict=False), zero_shot=model)


def make_extract(**fields: Any) -> Task:
    section = {"kind": "extract", "model": "small", "schema": SCHEMA, **fields}
    return make_task("t", TaskSection.model_validate(section, strict=False), zero_shot=GLINER)


def run(task: Task, engine: FakeEngine, text: str = MESSAGE, **options: Any) -> Outcome:
    sent = Request("t", text, "1", "r", options=options)
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, None))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


@pytest.mark.parametrize("model", [GLICLASS, NLI])
def test_labels_are_shown_with_their_meanings(model: ZeroShotSection) -> None:
    engine = FakeEngine(Output(probabilities=(0.25, 0.75)))
    outcome = run(make(model), engine)
    assert engine.calls == [LabelText(MESSAGE, ("all is well", "hot: too warm"), "error")]
    assert outcome.status == "ok"
    assert outcome.result == {
        "label": "hot",
        "confidence": 0.75,
        "scores": {"all_is_well": 0.25, "hot": 0.75},
        "stage": "small",
        "taught": False,
    }


def test_an_unsure_label_is_abstained_for_the_next_stage() -> None:
    assert run(make(threshold=0.8), FakeEngine(Output(probabilities=(0.25, 0.75)))).status == "abstained"


def test_labels_of_a_request() -> None:
    engine = FakeEngine(Output(probabilities=(0.25, 0.75)))
    outcome = run(make(allow=["labels"]), engine, labels={"a": "", "b": "c"})
    assert engine.calls == [LabelText(MESSAGE, ("a", "b: c"), "error")]
    assert outcome.result["label"] == "b"


def test_fields_with_their_places_and_scores() -> None:
    places = (
        ((0, 7, 0.9),),
        ((12, 24, 0.8),),  # "81.5 degrees"
        ((31, 34, 0.6), (35, 37, 0.7)),
        (),
    )
    engine = FakeEngine(Output(probabilities=(0.9, 0.8, 0.7, 0.3), places=places))
    outcome = run(make_extract(), engine)
    wanted = ("name of a machine", "temperature c", "people", "state")
    assert engine.calls == [FindSpans(MESSAGE, wanted, "error")]
    assert outcome.status == "ok"
    assert outcome.result["fields"] == {
        "machine": "Press 4",
        "temperature_c": 81.5,
        "people": ["Ann", "Bo"],
    }
    assert outcome.result["spans"]["temperature_c"] == {"start": 12, "end": 16}
    assert outcome.result["spans"]["people.1"] == {"start": 35, "end": 37}
    assert outcome.result["scores"] == {"machine": 0.9, "temperature_c": 0.8, "people": 0.6}
    assert outcome.result["confidence"] == 0.6  # less than 1 - 0.3, of the state that isn't there
    assert outcome.result["taught"] is False


def test_the_likeliest_span_that_fits_the_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "state": {"enum": ["Press", "x"]}}}
    places = (((12, 24, 0.9), (6, 7, 0.8)), ((0, 7, 0.9), (0, 5, 0.6)))
    engine = FakeEngine(Output(probabilities=(0.9, 0.9), places=places))
    assert run(make_extract(schema=schema), engine).result["fields"] == {"n": 4, "state": "Press"}


def test_a_missing_required_field_abstains() -> None:
    engine = FakeEngine(Output(probabilities=(0.1,) * 4, places=((),) * 4))
    outcome = run(make_extract(), engine)
    assert (outcome.status, outcome.result["confidence"]) == ("abstained", 0.0)


def test_a_schema_of_a_request() -> None:
    engine = FakeEngine(Output(probabilities=(0.9,), places=(((0, 7, 0.9),),)))
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    assert run(make_extract(allow=["schema"]), engine, schema=schema).result["fields"] == {"x": "Press 4"}
    schema = {"type": "object", "properties": {"x": {"type": "boolean"}}}
    with pytest.raises(
        InvalidRequest, match=r"options\.schema\.properties\.x: a zero-shot model finds texts"
    ):
        run(make_extract(allow=["schema"]), engine, schema=schema)


def test_fields_that_no_span_can_be() -> None:
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}}
    with pytest.raises(ConfigError, match=r"tasks\.t\.schema\.properties\.on"):
        make_extract(schema=schema)
    same = {"type": "string", "description": "a name"}
    with pytest.raises(ConfigError, match="described as another field"):
        make_extract(schema={"type": "object", "properties": {"a": same, "b": same}})

    with pytest.raises(ConfigError, match="no words that a zero-shot model could read"):
        make_extract(schema={"type": "object", "properties": {"_": {"type": "string"}}})


@pytest.mark.parametrize(
    ("labels", "fault"),
    [(["too_hot", "too hot"], "reads two of them as 'too hot'"), (["_", "a"], "underscores alone")],
)
def test_labels_that_the_model_cant_tell_apart(labels: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        make(labels=labels)


def test_a_model_of_the_other_kind() -> None:
    with pytest.raises(ConfigError, match="kind gliner finds spans, for tasks of kind extract"):
        make(GLINER)
    with pytest.raises(ConfigError, match="kind nli labels texts, for tasks of kind classify"):
        make(NLI, kind="summarize", labels=None)


def test_too_many_labels() -> None:
    with pytest.raises(ConfigError, match=f"more than the {MOST_LABELS}"):
        make(labels={f"l{number}": "" for number in range(MOST_LABELS + 1)})
