"""Teaching in the console, for tests: a node with fake engines and fake training, and a page's actions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import EdgeslmError
from edgeslm.teaching.lesson import ExportRunner
from tests.support.apps import WAIT_S
from tests.support.consoles import Reply, Visitor, console_node, visitor_of
from tests.support.nodes import Node, write_bundle
from tests.support.taught import write_head

LABELS = ("normal", "critical")
NO_GUESS = {"guess": None, "confidence": None}
TEXTS = [f"Spindle {number} {'smells of smoke' if number % 3 else 'turns'}" for number in range(30)]


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().split("\n") if line]


class FakeExport:
    """Replaces ``edgeslm-export``: chooses the first texts, and writes a head that a fake engine takes."""

    def __init__(self, encoder: Path) -> None:
        self.encoder = encoder
        self.trained: list[list[dict[str, Any]]] = []
        self.choices = 0
        self.failure = ""
        self.guesses = True
        self.doubted: list[dict[str, Any]] = []

    def __call__(self, arguments: Sequence[str]) -> dict[str, Any]:
        if self.failure:
            raise EdgeslmError(self.failure)
        if arguments[0] == "choose":
            self.choices += 1
            texts = [row["text"] for row in rows_of(arguments[1])]
            rows = rows_of(arguments[7]) if "--labelled" in arguments else []
            known = {row["text"] for row in rows}
            left = [text for text in texts if text not in known][: int(arguments[3])]
            guess = {"guess": LABELS[0], "confidence": 0.5} if self.guesses else NO_GUESS
            chosen = [{"text": text, **guess} for text in left]
            accuracy = {
                "share": 0.75,
                "interval": [0.5, 0.9],
                "confusion": {"labels": sorted(LABELS), "counts": [[1, 0], [1, 2]]},
                "doubted": self.doubted,
            }
            return {"chosen": chosen, "accuracy": accuracy if self.guesses and len(rows) > 3 else None}
        rows = rows_of(arguments[2])
        self.trained.append(rows)
        learned = {"task": "triage", "labels": list(LABELS), "rows": len(rows)}
        write_head(Path(arguments[3]), load_bundle(self.encoder).digest, **learned)
        return {"accuracy": 0.9, "interval": [0.8, 0.95], "rows": len(rows)}


class Teacher(Visitor):
    """A signed-in visitor that teaches one task."""

    task = "triage"
    patience_s = WAIT_S

    def act(self, action: str, **arguments: str) -> Reply:
        return self.change("/api/teach", {"action": action, "task": self.task, **arguments})

    def state(self, action: str = "state", **arguments: str) -> dict[str, Any]:
        reply = self.act(action, **arguments)
        assert reply.status == 200, reply.text
        found: dict[str, Any] = reply.json
        return found

    def when(self, done: Any, what: str) -> dict[str, Any]:
        """The state as soon as ``done`` is true of it."""
        give_up_at = time.monotonic() + self.patience_s
        while not done(state := self.state()):
            assert time.monotonic() < give_up_at, f"{what}: {state}"
            time.sleep(0.05)
        return state

    def label_all(self, count: int) -> list[tuple[str, str]]:
        given = []
        for number in range(count):
            state = self.when(lambda state: state["message"], "there is a message")
            label = LABELS[number % 2]
            self.state("label", message=state["message"]["id"], label=label)
            given.append((state["message"]["text"], label))
        return given

    def trained(self) -> dict[str, Any]:
        self.when(lambda state: state["doing"] != "training", "an earlier training ends")
        self.state("train")
        state = self.when(lambda state: state["doing"] != "training", "it is trained")
        assert not state["problem"], state
        return state


@contextmanager
def teaching_node(
    folder: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    teach: dict[str, Any] | None = None,
    console: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[tuple[Node, Teacher, FakeExport]]:
    """A node with fake engines, and one who teaches it and has signed in."""
    export = FakeExport(write_bundle(folder / "encoder", "encoder"))
    monkeypatch.setattr(ExportRunner, "run", lambda self, arguments: export(arguments))
    with console_node(folder, url, console={**(console or {}), "teach": teach or {}}, **more) as node:
        teacher = Teacher(visitor_of(node).port)
        teacher.sign_in()
        next(news for news in teacher.news() if news.get("health", {}).get("state") == "online")
        yield node, teacher, export
