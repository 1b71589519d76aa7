"""Corrections that come over the bus: which are kept, for which task and which text."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.node.feedback import LONGEST, REMEMBERED, Corrections, check_correction
from edgeslm.storage.feedback_store import MOST_BYTES, Correction, FeedbackStore
from edgeslm.tasks import Task, make_task
from edgeslm.telemetry.health import Meter
from tests.support.fakes import FakeService
from tests.support.taught import EXTRACT, adapter_bundle, head_bundle

SCHEMA = {"type": "object", "properties": {"machine": {"type": "string"}}}


def task(name: str, **fields: Any) -> Task:
    return make_task(name, TaskSection.model_validate({"model": "small", **fields}, strict=False))


TASKS = {
    "triage": task("triage", kind="classify", labels=["normal", "critical"]),
    "fields": task("fields", kind="extract", schema=SCHEMA),
    "say": task("say", kind="generate"),
    "topic": make_task("topic", TaskSection(learned=Path("/learned/topic")), head_bundle()),
    "taught": make_task("taught", TaskSection(learned=Path("/learned/topic")), adapter_bundle(EXTRACT)),
}


class Node:
    """The corrections of a node."""

    def __init__(self, folder: Path) -> None:
        self.store = FeedbackStore(folder)
        self.meter = Meter()
        self.corrections = Corrections(self.store, FakeService(**TASKS), self.meter)

    @property
    def dropped(self) -> list[str]:
        """What it counts."""
        return list(self.meter.dropped.elements())

    def ask(self, text: Any, id_: str, task: str = "triage") -> None:
        self.corrections.remember(Request(task, text, id_, "r"))

    def tell(self, **message: Any) -> None:
        asyncio.run(self.corrections.take(json.dumps(message).encode()))

    def rows(self, task: str = "triage") -> list[tuple[str, Any]]:
        """Text and answer of those that are kept."""
        file = self.store.file(task)
        lines = file.read_text().splitlines() if file.exists() else []
        return [
            (row["text"], row.get("label", row.get("fields"))) for row in (json.loads(line) for line in lines)
        ]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


# -- what is kept ----------------------------------------------------------------------------------


def test_a_label_and_its_text(node: Node) -> None:
    node.tell(task="triage", input="Fire!", label="critical")
    assert node.rows() == [("Fire!", "critical")]
    assert node.dropped == []


def test_fields_and_their_text(node: Node) -> None:
    node.tell(task="fields", input="Press 4", fields={"machine": "Press 4"})
    assert node.rows("fields") == [("Press 4", {"machine": "Press 4"})]


def test_of_tasks_that_were_taught_too(node: Node) -> None:
    node.tell(task="topic", input="Win!", label="spam")
    node.tell(task="taught", input="Press 4", fields={"machine": "Press 4"})
    assert (node.rows("topic"), len(node.rows("taught"))) == ([("Win!", "spam")], 1)


def test_an_earlier_request_is_named_by_its_id(node: Node) -> None:
    node.ask("All fine", "41")
    node.ask("Fire!", "42")
    node.tell(task="triage", id="42", label="critical")
    assert node.rows() == [("Fire!", "critical")]


def test_names_of_tasks_that_are_not_here_are_not_remembered(node: Node) -> None:
    node.ask("Fire!", "42")
    for number in range(REMEMBERED):
        node.ask("a text", str(number), "x" * 65_000)
    node.tell(task="triage", id="42", label="critical")
    assert node.rows() == [("Fire!", "critical")], "it isn't forgotten for them"


def test_an_id_means_a_request_of_its_task(node: Node) -> None:
    node.ask("Fire!", "42", "triage")
    node.ask("Win!", "42", "topic")
    node.tell(task="triage", id="42", label="critical")
    assert node.rows() == [("Fire!", "critical")]


def test_an_id_that_means_two_texts_means_none(node: Node) -> None:
    """Small boards begin again with id 1: one sensor's correction must not label another's text."""
    node.ask("All fine", "42")
    node.ask("Fire!", "42")
    node.tell(task="triage", id="42", label="critical")
    assert (node.rows(), node.dropped) == ([], ["feedback"])


def test_the_last_requests_are_remembered(node: Node) -> None:
    for number in range(REMEMBERED + 1):
        node.ask(f"text {number}", str(number))
    node.tell(task="triage", id="1", label="normal")
    assert (node.rows(), node.dropped) == ([("text 1", "normal")], [])
    node.tell(task="triage", id="0", label="normal")
    assert node.dropped == ["feedback"]


def test_a_request_that_comes_again_is_remembered_longer(node: Node) -> None:
    node.ask("Fire!", "42")
    for number in range(REMEMBERED - 1):
        node.ask("x", f"other {number}")
    node.ask("Fire!", "42")
    node.ask("x", "one more")
    node.tell(task="triage", id="42", label="critical")
    assert node.rows() == [("Fire!", "critical")]


@pytest.mark.parametrize("text", ["x" * (LONGEST + 1), {"messages": []}])
def test_neither_long_texts_nor_objects_are_remembered(node: Node, text: Any) -> None:
    node.ask(text, "42")
    node.tell(task="triage", id="42", label="critical")
    assert (node.rows(), node.dropped) == ([], ["feedback"])


def test_the_sender_is_kept(node: Node) -> None:
    asyncio.run(
        node.corrections.take(b'{"task": "triage", "input": "Fire!", "label": "critical"}', by="desk-3")
    )
    node.tell(task="triage", input="Rain", label="normal")
    assert [row["by"] for row in node.store.rows("triage")] == ["desk-3", ""]


# -- what isn't ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"task": "triage"},
        {"task": "nothing", "input": "x", "label": "a"},
        {"task": "../../etc/cron", "input": "x", "label": "a"},
        {"task": "triage", "id": "7", "label": "critical"},
        {"task": "triage", "input": "x", "label": "high"},
        {"task": "topic", "input": "x", "label": "eggs"},
        {"task": "triage", "input": "x", "fields": {"label": "critical"}},
        {"task": "fields", "input": "x", "label": "press"},
        {"task": "say", "input": "x", "label": "y"},
    ],
)
def test_what_cant_be_kept_is_counted(node: Node, tmp_path: Path, message: dict[str, Any]) -> None:
    node.tell(**message)
    assert node.dropped == ["feedback"]
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_full_file_is_counted(node: Node) -> None:
    file = node.store.file("triage")
    file.parent.mkdir()
    file.touch()
    os.truncate(file, MOST_BYTES)
    node.tell(task="triage", input="x", label="critical")
    assert node.dropped == ["feedback"]


def test_no_text_is_logged(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.tell(task="triage", input="a secret", label="another secret")
    (record,) = [record for record in caplog.records if record.levelname != "DEBUG"]
    assert record.getMessage() == "a correction was not kept (InvalidRequest)"


@pytest.mark.parametrize(
    ("correction", "sentence"),
    [
        (Correction("say", "x", "y"), "the task say is of kind generate, which isn't learned"),
        (Correction("fields", "x", "y"), "the task fields is of kind extract: its corrections have fields"),
        (
            Correction("triage", "x", fields={"a": "b"}),
            "the task triage is of kind classify: its corrections have a label",
        ),
        (
            Correction("triage", "x", "high"),
            "the task triage has no label 'high'; it has normal, critical",
        ),
        (Correction("topic", "x", "high"), "the task topic has no label 'high'; it has spam, ham"),
    ],
)
def test_what_a_task_cant_learn_from_says_why(correction: Correction, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_correction(TASKS[correction.task], correction)
    assert str(caught.value) == sentence


def test_a_correction_that_the_broker_delivers_again_is_kept_once(node: Node) -> None:
    def deliver(label: str, *, again: bool) -> None:
        message = {"task": "triage", "input": "Fire!", "label": label}
        asyncio.run(node.corrections.take(json.dumps(message).encode(), again=again, by="desk-3"))

    deliver("critical", again=True)  # the first delivery was lost with the node
    deliver("critical", again=True)
    assert node.rows() == [("Fire!", "critical")]
    deliver("normal", again=False)
    deliver("critical", again=False)
    assert [label for _, label in node.rows()] == ["critical", "normal", "critical"]
