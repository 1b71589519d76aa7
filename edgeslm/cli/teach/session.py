"""One session of labelling: which message comes next, undo, and what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeslm.cli.teach.training import Lesson

ROUND = 10
"""Number of messages that are chosen at a time."""

Row = Mapping[str, str]


class Session:
    """Labels of one task. A label is stored when the next one is given, so that the last can be undone.

    :param rows: labels of earlier sessions, ``{"text", "label"}``. :param keep: stores a label.
    """

    def __init__(
        self, lesson: Lesson, texts: Sequence[str], rows: Sequence[Row], keep: Callable[[Row], None]
    ) -> None:
        self._lesson = lesson
        self._texts = texts
        self._kept = list(rows)
        self._keep = keep
        self._last: Row | None = None
        self._round: list[dict[str, Any]] = []
        self._skipped: set[str] = set()
        self.accuracy: dict[str, Any] | None = None
        """Accuracy of a head on the labels so far, as ``edgeslm-export choose`` reports it."""

    @property
    def rows(self) -> list[Row]:
        return [*self._kept, *([self._last] if self._last is not None else [])]

    @property
    def can_undo(self) -> bool:
        """Whether there is a label to take back."""
        return self._last is not None

    @property
    def counts(self) -> Counter[str]:
        return Counter(row["label"] for row in self.rows)

    def next(self) -> dict[str, Any] | None:
        """The message to label: its ``text``, and the ``guess`` so far; None if there is none left.

        :raises EdgeslmError: the choice failed.
        """
        if not self._round:
            if not self._texts:
                return None
            # All texts each time, so that their vectors are those of the cache.
            found = self._lesson.choose(self._texts, self.rows, ROUND + len(self._skipped))
            chosen = [one for one in found["chosen"] if one["text"] not in self._skipped]
            self._round, self.accuracy = chosen[:ROUND], found["accuracy"]
        return self._round[0] if self._round else None

    def label(self, text: str, label: str) -> None:
        """:raises FeedbackError: the label before can't be stored."""
        self.store()
        self._last = {"text": text, "label": label}
        self._round = [one for one in self._round if one["text"] != text]

    def skip(self, text: str) -> None:
        self._skipped.add(text)
        self._round = [one for one in self._round if one["text"] != text]

    def undo(self) -> str | None:
        """Takes the last label back; its message comes again. :return: the text; None if there is none."""
        if self._last is None:
            return None
        text, self._last = self._last["text"], None
        self._round.insert(0, {"text": text, "guess": None, "confidence": None})
        return text

    def store(self) -> None:
        """Stores the last label. :raises FeedbackError: it can't be stored."""
        if self._last is not None:
            self._keep(self._last)
            self._kept.append(self._last)
            self._last = None
