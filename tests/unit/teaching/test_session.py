"""A session of labelling: rounds, undo, skips, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeslm.teaching.lesson import Lesson
from edgeslm.teaching.session import Row, Session


class FakeLesson(Lesson):
    """Chooses the first texts without a label."""

    def choose(self, texts: Sequence[str], rows: Sequence[Mapping[str, str]], count: int) -> dict[str, Any]:
        known = {row["text"] for row in rows}
        left = [text for text in texts if text not in known][:count]
        chosen = [{"text": text, "guess": None, "confidence": None} for text in left]
        return {"chosen": chosen, "labelled": len(rows), "accuracy": {"share": len(rows)}}


class FakeStore:
    """Keeps rows in a list."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def keep(self, row: Row) -> None:
        self.rows.append(row)

    def take_back(self, text: str) -> None:
        last = max(number for number, row in enumerate(self.rows) if row["text"] == text)
        del self.rows[last]


def session(texts: int = 25, rows: Sequence[Row] = ()) -> tuple[Session, list[Row]]:
    store = FakeStore()
    lesson = FakeLesson("t", {"a": "", "b": ""}, Path("encoder"), Path("work"))
    return Session(lesson, [f"text {number}" for number in range(texts)], rows, store), store.rows


def text_of(one: dict[str, Any] | None) -> str:
    assert one is not None
    return str(one["text"])


def test_a_label_is_stored_as_it_is_given() -> None:
    made, kept = session()
    made.label(text_of(made.next()), "a")
    assert kept == [{"text": "text 0", "label": "a"}] == made.rows
    made.label(text_of(made.next()), "b")
    assert [row["text"] for row in kept] == ["text 0", "text 1"]


def test_labels_can_be_taken_back_one_after_the_other() -> None:
    made, kept = session()
    made.label(text_of(made.next()), "a")
    made.label(text_of(made.next()), "b")
    assert (made.undo(), made.undo(), made.undo()) == ("text 1", "text 0", None)
    assert text_of(made.next()) == "text 0" and kept == [] and made.rows == []
    made.label("text 0", "b")
    assert kept == [{"text": "text 0", "label": "b"}]
    assert text_of(made.next()) == "text 1"


def test_a_label_that_is_corrected_and_taken_back_is_as_it_was() -> None:
    made, kept = session(3, [{"text": "text 0", "label": "b"}])
    made.label("text 0", "a")
    assert made.counts == {"a": 1} and len(kept) == 1
    assert made.undo() == "text 0" and made.counts == {"b": 1} and kept == []
    assert text_of(made.next()) == "text 1", "it has its label, and isn't shown again"


def test_a_skipped_message_doesnt_come_again() -> None:
    made, _ = session(2)
    made.skip(text_of(made.next()))
    assert text_of(made.next()) == "text 1"
    made.skip("text 1")
    assert made.next() is None
    assert made.is_over
    made.add(["text 2", "text 0"])
    assert text_of(made.next()) == "text 2"


def test_messages_come_in_rounds_and_end() -> None:
    made, kept = session(12)
    shares = []
    while (one := made.next()) is not None:
        shares.append(made.accuracy and made.accuracy["share"])
        made.label(one["text"], "a")
    assert shares == [0] * 10 + [10] * 2
    assert len(kept) == 12 and made.counts == {"a": 12}


def test_a_round_that_was_chosen_ahead_repeats_nothing() -> None:
    made, _ = session(25)
    for _ in range(8):
        made.label(text_of(made.next()), "a")
    found = made.choose()
    made.label(text_of(made.next()), "a")  # while it was chosen
    made.take(found)
    texts = []
    while made.present is not None:
        texts.append(text_of(made.present))
        made.label(texts[-1], "a")
    assert texts == [f"text {number}" for number in range(9, 9 + len(texts))] and len(texts) == 11


def test_labels_of_earlier_sessions_count() -> None:
    made, kept = session(2, [{"text": "text 0", "label": "b"}])
    assert text_of(made.next()) == "text 1"
    assert made.counts == {"b": 1} and kept == []


def test_labels_of_others_are_guesses_until_they_are_given_here() -> None:
    made, kept = session(3, [{"text": "text 0", "label": "b"}])
    made.suggest([{"text": text, "label": "a", "by": "desk-3"} for text in ("new", "text 0")])
    assert made.present == {"text": "new", "guess": "a", "confidence": None, "by": "desk-3"}
    assert made.counts == {"b": 1} and made.size == 4
    made.label("new", "a")
    assert kept == [{"text": "new", "label": "a"}]
    assert made.find(lambda text: text.startswith("new")) == "new"


def test_labels_of_others_leave_the_message_that_is_shown() -> None:
    made, _ = session(4)
    shown = text_of(made.next())
    made.suggest([{"text": text, "label": "a", "by": "desk-3"} for text in ("new", "text 2", shown)])
    waiting = [made.present, *made.following(10)]
    assert [text_of(one) for one in waiting] == [shown, "new", "text 2", "text 1", "text 3"]
    assert [(one or {}).get("by") for one in waiting] == ["desk-3", "desk-3", "desk-3", None, None]


def test_a_proposal_counts_only_when_it_is_confirmed() -> None:
    made, kept = session(3)
    made.next()
    assert made.unproposed == ["text 0", "text 1", "text 2"] and made.proposed == []
    made.propose("text 0", "a", 0.8, "gliclass")
    made.propose("text 2", "b", 0.6, "gliclass")
    assert made.present == {"text": "text 0", "guess": "a", "confidence": 0.8, "model": "gliclass"}
    assert (kept, made.rows, made.unproposed) == ([], [], ["text 1"])
    made.label("text 0", "b")
    assert kept == [{"text": "text 0", "label": "b"}]
    assert [one["text"] for one in made.proposed] == ["text 2"]
    assert made.undo() == "text 0" and made.present is not None
    assert made.present["guess"] == "a", "the proposal comes again with its message"


def test_proposals_that_are_accepted_together_are_told_apart() -> None:
    made, kept = session(2)
    made.next()
    made.propose("text 0", "a", 0.8, "gliclass")
    made.label("text 0", "a", "gliclass")
    made.label("text 1", "b")
    assert kept == [
        {"text": "text 0", "label": "a", "proposed": "gliclass"},
        {"text": "text 1", "label": "b"},
    ]


def test_a_guess_of_the_labels_so_far_stays() -> None:
    made, _ = session(1)
    made.take({"chosen": [{"text": "text 0", "guess": "b", "confidence": 0.9}], "accuracy": None})
    made.propose("text 0", "a", 0.8, "gliclass")
    assert made.present == {"text": "text 0", "guess": "b", "confidence": 0.9} and made.unproposed == []
