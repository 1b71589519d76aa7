"""A session of labelling: rounds, undo, skips, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeslm.cli.teach.session import Row, Session
from edgeslm.cli.teach.training import Lesson


class FakeLesson(Lesson):
    """Chooses the first texts without a label."""

    def choose(self, texts: Sequence[str], rows: Sequence[Mapping[str, str]], count: int) -> dict[str, Any]:
        known = {row["text"] for row in rows}
        left = [text for text in texts if text not in known][:count]
        chosen = [{"text": text, "guess": None, "confidence": None} for text in left]
        return {"chosen": chosen, "labelled": len(rows), "accuracy": {"share": len(rows)}}


def session(texts: int = 25, rows: Sequence[Row] = ()) -> tuple[Session, list[Row]]:
    kept: list[Row] = []
    lesson = FakeLesson("t", {"a": "", "b": ""}, Path("encoder"), Path("work"))
    return Session(lesson, [f"text {number}" for number in range(texts)], rows, kept.append), kept


def text_of(one: dict[str, Any] | None) -> str:
    assert one is not None
    return str(one["text"])


def test_a_label_is_stored_with_the_next_one_or_at_the_end() -> None:
    made, kept = session()
    made.label(text_of(made.next()), "a")
    assert kept == [] and made.rows == [{"text": "text 0", "label": "a"}]
    made.label(text_of(made.next()), "b")
    assert kept == [{"text": "text 0", "label": "a"}]
    made.store()
    assert [row["text"] for row in kept] == ["text 0", "text 1"]


def test_the_last_label_can_be_taken_back_once() -> None:
    made, kept = session()
    made.label(text_of(made.next()), "a")
    assert made.undo() == "text 0"
    assert text_of(made.next()) == "text 0"
    assert made.undo() is None
    made.label("text 0", "b")
    made.store()
    assert kept == [{"text": "text 0", "label": "b"}]


def test_a_skipped_message_doesnt_come_again() -> None:
    made, _ = session(2)
    made.skip(text_of(made.next()))
    assert text_of(made.next()) == "text 1"
    made.skip("text 1")
    assert made.next() is None


def test_messages_come_in_rounds_and_end() -> None:
    made, kept = session(12)
    shares = []
    while (one := made.next()) is not None:
        shares.append(made.accuracy and made.accuracy["share"])
        made.label(one["text"], "a")
    made.store()
    assert shares == [0] * 10 + [10] * 2
    assert len(kept) == 12 and made.counts == {"a": 12}


def test_labels_of_earlier_sessions_count() -> None:
    made, kept = session(2, [{"text": "text 0", "label": "b"}])
    assert text_of(made.next()) == "text 1"
    assert made.counts == {"b": 1} and kept == []
