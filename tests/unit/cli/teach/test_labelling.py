"""Labelling: what a key does with the message that is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeslm.cli.teach.labelling import CONFIRM, _label
from edgeslm.teaching.lesson import Lesson
from edgeslm.teaching.session import Row, Session

PROPOSED = {"text": "one", "guess": "a", "confidence": 0.8, "model": "small"}
GUESSED = {"text": "one", "guess": "a", "confidence": 0.8}


@pytest.mark.parametrize(
    ("shown", "is_terminal", "stored"),
    [
        (PROPOSED, True, ["a"]),
        (GUESSED, True, ["a"]),
        (GUESSED, False, ["a"]),
        (PROPOSED, False, []),  # whether it is there in time is chance
    ],
)
def test_enter_takes_a_guess_and_a_terminals_proposal(
    shown: dict[str, Any], is_terminal: bool, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: is_terminal))
    rows: list[Row] = []
    store: Any = SimpleNamespace(keep=rows.append)
    session = Session(Lesson("t", {"a": "", "b": ""}, Path("e"), Path("w")), ["one", "two"], [], store)
    session.take({"chosen": [dict(shown), {**shown, "text": "two"}], "accuracy": None})
    _label(session, shown, ["a", "b"], CONFIRM)
    assert [row["label"] for row in rows] == stored
    assert session.present is not None and session.present["text"] == "two", "skipped or labelled"
