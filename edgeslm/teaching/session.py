"""One session of labelling: which message comes next, undo, and what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgeslm.storage.feedback_store import PROPOSED
from edgeslm.teaching.lesson import Lesson

KEYS = "123456789abcdefghijklmnoprtvwxyz"
"""Keys of the labels, in their order; ``q``, ``s`` and ``u`` have other meanings."""
ROUND = 10
"""Number of messages that are chosen at a time."""

Row = Mapping[str, str]


class LabelStore(Protocol):
    """Where labels are stored."""

    def keep(self, row: Row, /) -> None:
        """:raises FeedbackError: the row can't be stored."""

    def take_back(self, text: str, /) -> None:
        """Removes the last stored row of a text. :raises FeedbackError: it can't be removed."""


class Session:
    """Labels of one task, each of which is stored as it is given.

    :param rows: labels of earlier sessions, ``{"text", "label"}``. :param texts: the messages to label.
    """

    def __init__(self, lesson: Lesson, texts: Sequence[str], rows: Sequence[Row], store: LabelStore) -> None:
        self.lesson = lesson
        self._texts = list(texts)
        self._labels = {row["text"]: row["label"] for row in rows}
        self._store = store
        self._given: list[tuple[str, str | None]] = []
        """Texts labelled in this session, with the label before."""
        self._round: list[dict[str, Any]] = []
        self._skipped: set[str] = set()
        self._proposals: dict[str, dict[str, Any]] = {}
        self._is_over = False
        self.accuracy: dict[str, Any] | None = None
        """Accuracy of a head on the labels so far, as ``edgeslm-export choose`` reports it."""

    @property
    def rows(self) -> list[Row]:
        return [{"text": text, "label": label} for text, label in self._labels.items()]

    @property
    def counts(self) -> Counter[str]:
        return Counter(self._labels.values())

    @property
    def can_undo(self) -> bool:
        return bool(self._given)

    @property
    def waiting(self) -> int:
        """Number of chosen messages that wait for a label."""
        return len(self._round)

    @property
    def is_over(self) -> bool:
        """Whether all messages have a label or were skipped."""
        return not self._round and (self._is_over or not self._texts)

    def label_of(self, text: str) -> str | None:
        return self._labels.get(text)

    @property
    def size(self) -> int:
        """Number of messages."""
        return len(self._texts)

    def find(self, fits: Callable[[str], bool]) -> str | None:
        """The first message for which ``fits`` is true."""
        shown = (one["text"] for one in self._round)
        return next((text for text in (*shown, *self._texts, *self._labels) if fits(text)), None)

    def suggest(self, rows: Sequence[Row]) -> None:
        """Shows messages next that others (``by``) labelled, with those labels as guesses; they don't count
        yet. The message that is shown now stays."""
        new = {
            row["text"]: {"text": row["text"], "guess": row["label"], "confidence": None, "by": row["by"]}
            for row in rows
            if row["text"] not in self._labels
        }
        self.add(list(new))
        shown = [new.pop(one["text"], one) for one in self._round[:1]]
        self._round = [*shown, *new.values(), *(one for one in self._round[1:] if one["text"] not in new)]

    def propose(self, text: str, label: str, confidence: float | None, model: str) -> None:
        """Notes the label that an untaught ``model`` proposes for a message. It is the message's guess until
        the labels so far give one, and doesn't count before somebody confirms it."""
        self._proposals[text] = {"guess": label, "confidence": confidence, "model": model}
        for one in self._round:  # the list may be replaced in another thread, its objects are the same
            self._with_proposal(one)

    def _with_proposal(self, one: dict[str, Any]) -> dict[str, Any]:
        if one["guess"] is None:
            one |= self._proposals.get(one["text"], {})
        return one

    @property
    def unproposed(self) -> list[str]:
        """Chosen messages without a guess or proposal, in the order in which they are shown."""
        return [one["text"] for one in self._round if one["guess"] is None]

    @property
    def proposed(self) -> list[dict[str, Any]]:
        """Chosen messages with a proposal: ``text``, ``guess``, ``confidence`` and ``model``."""
        return [one for one in self._round if "model" in one]

    def add(self, texts: Sequence[str]) -> None:
        """Adds messages to label."""
        known = set(self._texts)
        new = [text for text in texts if text not in known]
        self._texts += new
        self._is_over = self._is_over and not new

    def next(self) -> dict[str, Any] | None:
        """The message to label: its ``text``, and the ``guess`` so far; None if there is none left.

        :raises EdgeslmError: the choice failed.
        """
        if not self._round and self._texts:
            self.take(self.choose())
        return self.present

    @property
    def present(self) -> dict[str, Any] | None:
        """The message to label among those chosen; None if others must be chosen first."""
        return self._round[0] if self._round else None

    def following(self, count: int) -> list[dict[str, Any]]:
        """The messages that come after :attr:`present`, as far as they are chosen."""
        return self._round[1 : 1 + count]

    def choose(self) -> dict[str, Any]:
        """Chooses the next messages, for :meth:`take`; changes nothing, so that it may run in a thread.

        :raises EdgeslmError: the choice failed.
        """
        # All texts each time, so that their vectors are those of the cache.
        count = ROUND + len(self._skipped) + len(self._round)
        return self.lesson.choose(list(self._texts), self.rows, count)

    def take(self, found: Mapping[str, Any]) -> None:
        """Takes what :meth:`choose` has found."""
        waiting = {one["text"] for one in self._round}
        out = self._labels.keys() | self._skipped | waiting
        new = [one for one in found["chosen"] if one["text"] not in out]
        self._is_over = not new
        self._round += [self._with_proposal(one) for one in new[:ROUND]]
        self.accuracy = found["accuracy"]

    def label(self, text: str, label: str, proposed: str | None = None) -> None:
        """:param proposed: the model whose proposal this is, if it is accepted together with others.
        :raises FeedbackError: the label can't be stored."""
        mark = {} if proposed is None else {PROPOSED: proposed}
        self._store.keep({"text": text, "label": label, **mark})
        self._given.append((text, self._labels.get(text)))
        self._labels[text] = label
        self._leave(text)

    def skip(self, text: str) -> None:
        self._skipped.add(text)
        self._leave(text)

    def undo(self) -> str | None:
        """Takes the last label of this session back; its message comes again.

        :return: the text; None if there is none. :raises FeedbackError: the label can't be removed.
        """
        if not self._given:
            return None
        text, before = self._given[-1]
        self._store.take_back(text)
        self._given.pop()
        if before is not None:
            self._labels[text] = before
        else:
            del self._labels[text]
            self._round.insert(0, self._with_proposal({"text": text, "guess": None, "confidence": None}))
        return text

    def _leave(self, text: str) -> None:
        self._round = [one for one in self._round if one["text"] != text]
