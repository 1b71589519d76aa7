"""``extract`` as an encoder learned it: what is made of a head's answer, and how sure it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Cost, Output, Point, Pointed
from edgeslm.errors import ConfigError, InvalidRequest
from edgeslm.messages import Request, Truncated
from edgeslm.tasks import Outcome, Task, make_task
from edgeslm.tasks.extract import Extract
from tests.support.fakes import FakeEngine
from tests.support.pointers import POINTED, RISK, at, fitted, pointer_bundle
from tests.support.taught import EXTRACT, adapter_bundle

MESSAGE = "Press 4 runs at 40 degrees, Press 4!"
MACHINE = Pointed((1.0,), (at(MESSAGE, "Press 4", 0.5), at(MESSAGE, "Press 4", 0.25, nth=1)))
CELSIUS = Pointed((0.25, 0.75), (at(MESSAGE, "40"),))
STATE = Pointed((0.0, 0.5, 0.5))
NOTHING = Pointed((1.0,))
"""Of a machine: it must stand in the message, and stands nowhere."""


def make(bundle: Bundle | None = None, **fields: Any) -> Task:
    bundle = bundle or pointer_bundle()
    section = {"learned": str(bundle.path), **fields}
    return make_task("fields", TaskSection.model_validate(section, strict=False), bundle)


def says(*fields: Pointed, **output: Any) -> FakeEngine:
    return FakeEngine(Output(fields=fields or (MACHINE, CELSIUS, STATE), **output))


def run(task: Task, engine: FakeEngine | None = None, message: str = MESSAGE) -> Outcome:
    sent = Request("fields", message, "1", "r")
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine or says(), None))
    jsonschema.validate(outcome.result, task.result_schema())
    json.dumps(outcome.result, allow_nan=False)
    return outcome


def test_fields_are_what_the_head_points_at() -> None:
    engine = says(cost=Cost(prompt_tokens=9), truncated=Truncated(3, 9), distance=0.25)
    outcome = run(make(overflow="tail"), engine)
    assert outcome == Outcome(
        "ok",
        {
            "fields": {"machine": "Press 4", "celsius": 40, "state": "on"},
            "spans": {"machine": {"start": 0, "end": 7}, "celsius": {"start": 16, "end": 18}},
            "confidence": 0.75 * 0.75 * 0.5,
            "stage": "learned",
        },
        Cost(prompt_tokens=9),
        Truncated(3, 9),
        0.25,
    )
    assert engine.calls == [Point(MESSAGE, "/learned/topic", "tail", "sha256:1")]


def test_a_span_is_that_of_the_likeliest_place() -> None:
    """Not the first one, as of texts that a decoder writes."""
    machine = Pointed((1.0,), (at(MESSAGE, "Press 4", 0.5, nth=1), at(MESSAGE, "Press 4", 0.25)))
    outcome = run(make(), says(machine, CELSIUS, STATE))
    assert outcome.result["spans"]["machine"] == {"start": 28, "end": 35}


def test_a_value_that_was_taught_has_a_span_where_it_stands_in_the_message() -> None:
    message = "Press 4 is off"
    outcome = run(
        make(),
        says(Pointed((1.0,), (at(message, "Press 4"),)), Pointed((1.0, 0.0)), Pointed((0.0, 0.0, 1.0))),
        message,
    )
    assert outcome.result["fields"] == {"machine": "Press 4", "state": "off"}
    assert outcome.result["spans"]["state"] == {"start": 11, "end": 14}


def test_fields_that_are_missing_are_left_out() -> None:
    outcome = run(make(), says(MACHINE, Pointed((0.75, 0.25)), Pointed((0.5, 0.25, 0.25))))
    assert outcome.status == "ok"
    assert outcome.result["fields"] == {"machine": "Press 4"}
    assert outcome.result["confidence"] == 0.75 * 0.75 * 0.5


def test_a_required_field_that_may_be_null_is_null() -> None:
    schema = {**POINTED["output_schema"], "required": ["machine", "celsius"]}
    schema["properties"] = {**schema["properties"], "celsius": {"type": ["number", "null"]}}
    outcome = run(make(pointer_bundle(output_schema=schema)), says(MACHINE, Pointed((1.0, 0.0)), STATE))
    assert outcome.status == "ok"
    assert outcome.result["fields"] == {"machine": "Press 4", "celsius": None, "state": "on"}
    assert "celsius" not in outcome.result["spans"]


# -- how sure it is --------------------------------------------------------------------------------


def test_a_confidence_is_calibrated() -> None:
    outcome = run(make(pointer_bundle(calibration=fitted())))
    assert outcome.result["confidence"] == pytest.approx(0.75 * 0.75 * 0.5 / 2)


@pytest.mark.parametrize(("threshold", "status"), [(0.0, "ok"), (0.28, "ok"), (0.29, "abstained")])
def test_abstains_below_its_threshold(threshold: float, status: str) -> None:
    outcome = run(make(threshold=threshold))
    assert outcome.status == status
    assert outcome.result["fields"]["machine"] == "Press 4", "what it would have said is there all the same"


@pytest.mark.parametrize(
    ("max_error", "share", "status"),
    [(0.05, 0.59, "abstained"), (0.05, 0.61, "ok"), (0.1, 0.59, "abstained"), (0.2, 0.01, "ok")],
)
def test_a_wanted_error_sets_the_threshold(max_error: float, share: float, status: str) -> None:
    bundle = pointer_bundle(calibration=fitted(margins=[], confidences=[], risk=RISK))
    machine = Pointed((1.0,), (at(MESSAGE, "Press 4", share),))
    outcome = run(
        make(bundle, max_error=max_error), says(machine, Pointed((1.0, 0.0)), Pointed((1.0, 0.0, 0.0)))
    )
    assert outcome.status == status


def test_an_error_that_cant_be_promised_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.fields\.max_error: 0\.01 is not reachable"):
        make(pointer_bundle(calibration=fitted(risk=RISK)), max_error=0.01)


def test_what_a_teacher_taught_promises_no_error() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.fields\.max_error: error rates are unknown"):
        make(pointer_bundle(calibration=fitted()), max_error=0.2)


def test_without_a_calibration_a_head_is_taken_at_its_word() -> None:
    task = make(max_error=0.2)
    assert isinstance(task, Extract)
    assert task.threshold == pytest.approx(0.8)


@pytest.mark.parametrize("learned", [EXTRACT, None])
def test_what_a_decoder_writes_promises_no_error(learned: dict[str, Any] | None) -> None:
    """Whether it is known what its adapter was taught or not: it would never abstain."""
    fields = {"kind": "extract", "schema": EXTRACT["output_schema"], "max_error": 0.1}
    with pytest.raises(ConfigError, match=r"^tasks\.fields\.max_error: a decoder's output has no conf"):
        make(adapter_bundle(learned), **fields)


@pytest.mark.parametrize("calibration", [None, fitted(confidences=[0.5, 0.75])])
def test_where_nothing_fits_a_field_it_is_left_out_and_no_answer_given(calibration: Any) -> None:
    """Whatever the threshold, and however sure it is of the others."""
    outcome = run(make(pointer_bundle(calibration=calibration)), says(NOTHING, CELSIUS, STATE))
    assert outcome.status == "abstained"
    assert outcome.result["fields"] == {"celsius": 40, "state": "on"}
    assert outcome.result["spans"] == {"celsius": {"start": 16, "end": 18}}
    assert outcome.result["confidence"] == 0.0


def test_an_empty_message_has_no_fields() -> None:
    outcome = run(make(), says(NOTHING, Pointed((1.0, 0.0)), Pointed((1.0, 0.0, 0.0))), "")
    assert (outcome.status, outcome.result["fields"]) == ("abstained", {})


# -- schemas of the section ------------------------------------------------------------------------


def test_a_schema_may_name_fewer_fields_in_another_order() -> None:
    properties = {"state": {"enum": ["off"]}, "machine": {"type": "string"}}
    task = make(schema={"type": "object", "properties": properties, "required": ["machine"]})
    outcome = run(task)
    assert list(outcome.result["fields"].items()) == [("state", "off"), ("machine", "Press 4")]
    assert outcome.result["confidence"] == 0.75 * 0.5, "of what is wanted alone"
    assert task.result_schema()["properties"]["fields"]["properties"] == properties


def test_a_schema_may_bound_what_fits() -> None:
    """The text that is likeliest as it was taught is none for this task."""
    machine = Pointed((1.0,), (at(MESSAGE, "Press 4", 0.75), at(MESSAGE, "Press", 0.25)))
    schema = {"type": "object", "properties": {"machine": {"type": "string", "pattern": "^[A-Z][a-z]+$"}}}
    outcome = run(make(schema=schema), says(machine, CELSIUS, STATE))
    assert outcome.result["fields"] == {"machine": "Press"}
    assert outcome.result["confidence"] == 0.25


def test_a_schema_that_names_no_fields_is_no_task_for_a_decoder() -> None:
    engine = says()
    outcome = run(make(schema={"type": "object"}), engine)
    assert [type(call) for call in engine.calls] == [Point]
    assert (outcome.status, outcome.result["fields"], outcome.result["confidence"]) == ("ok", {}, 1.0)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "classify"}, "kind: classify, but the trained task is of kind extract"),
        (
            {"schema": {"type": "object", "properties": {"valve": {}, "machine": {}}}},
            "schema: the trained task finds celsius, machine, state; remove this key",
        ),
        ({"allow": ["schema"]}, "allow: schema can't be set by senders: training fixed the fields"),
        (
            {"examples": [{"input": "x", "output": {"machine": "x"}}]},
            "examples: have no effect with a trained task",
        ),
    ],
)
def test_a_section_that_contradicts_what_was_taught(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tasks\.fields\.{problem}"):
        make(**fields)


@pytest.mark.parametrize(("taught", "said"), [(True, False), (False, True)])
def test_values_are_words_of_the_message_where_it_was_taught_or_told_to(taught: bool, said: bool) -> None:
    fields = [{"name": "machine", "optional": False, "longest": 20, "values": ["pump", "runs"]}]
    schema = {"type": "object", "properties": {"machine": {"type": "string"}}}
    bundle = pointer_bundle(fields=fields, output_schema=schema, verbatim=taught)
    outcome = run(make(bundle, verbatim=said), says(Pointed((0.125, 0.625, 0.25))))
    assert outcome.result["fields"] == {"machine": "runs"}
    assert outcome.result["confidence"] == 0.25


def test_senders_bring_texts_and_no_schema() -> None:
    task = make()
    for sent, words in (
        (Request("fields", {"a": 1}, "1", "r"), "takes a text"),
        (Request("fields", "x", "1", "r", options={"schema": EXTRACT["output_schema"]}), "'schema'"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            task.check(sent)


def test_results_of_a_head_have_a_confidence_and_those_of_a_decoder_none() -> None:
    """A stage behind a head answers without one, so it isn't required of either."""
    assert "confidence" in make().result_schema()["properties"]
    assert "confidence" not in make(adapter_bundle(EXTRACT)).result_schema()["properties"]
    assert make().result_schema()["required"] == ["fields", "spans", "stage"]


# -- the schema as a whole -------------------------------------------------------------------------


def test_fields_that_fit_one_by_one_and_not_together_are_abstained() -> None:
    schema = {**POINTED["output_schema"], "dependentRequired": {"celsius": ["state"]}}
    bundle = pointer_bundle(output_schema=schema)
    outcome = run(make(bundle), says(MACHINE, CELSIUS, Pointed((1.0, 0.0, 0.0))))
    assert (outcome.status, outcome.result["confidence"]) == ("abstained", 0.0)


@pytest.mark.parametrize(
    ("fields", "is_answer"),
    [
        ({"machine": "Press 4"}, True),
        ({"machine": "Press 4", "state": "on"}, True),
        ({"machine": "Press 9"}, False),
        ({"machine": 4}, False),
        ({}, False),
        (None, False),
    ],
)
def test_what_another_node_answers_has_to_be_held_to_the_same(fields: Any, is_answer: bool) -> None:
    task = make(pointer_bundle(verbatim=True))
    assert task.is_answer({"fields": fields}, MESSAGE) is is_answer


def test_another_nodes_label_has_to_be_one_of_this_task() -> None:
    labels = TaskSection.model_validate(
        {"kind": "classify", "model": "m", "labels": ["a", "b"]}, strict=False
    )
    task = make_task("t", labels)
    assert [task.is_answer({"label": label}, "") for label in ("a", "c")] == [True, False]
    assert task.is_answer({}, "") is False
