"""A task that is taught in the console: its session of labelling, what training said, and the state shown."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any, Final

from edgeslm.bundle.calibration import Calibration
from edgeslm.errors import InvalidRequest
from edgeslm.teaching.rows import FEWEST
from edgeslm.teaching.session import KEYS, Session

THRESHOLDS: Final = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MOST_POINTS: Final = 200
MOST_PROPOSALS: Final = 30
SHOWN: Final = 200
"""Characters of a message that a list of proposals shows."""
FOLLOWING: Final = 3
"""Number of messages that the page has in advance, so that keys needn't wait for the node."""


class TaughtTask:
    """One task and how far it is.

    :param record: what is kept of earlier sessions: ``curve``, a list of [labels, share, low, high], and
        ``report`` and ``compared`` of the last training. The caller stores it.
    """

    def __init__(self, session: Session, record: dict[str, Any], threshold: float) -> None:
        self.session = session
        self.record = record
        self._threshold = threshold
        self.doing = ""
        """``choosing`` or ``training``; empty if no job runs."""
        self.problem = ""
        """Why the last job failed, as a sentence; ``failed_at``: when it ended, in monotonic seconds."""
        self.failed_at = 0.0
        self.is_proposing = False
        """Whether the untaught model at work proposes labels now."""
        self.unproposable: set[str] = set()
        """Texts that it failed on; it proposes nothing before ``proposes_at``, in monotonic seconds."""
        self.proposes_at = 0.0
        self.confirmed: set[str] = set()
        """Texts whose label was looked at again."""
        self.used_at = time.monotonic()
        self.read_at = -1
        """Number of samples that the node had added when this task's were read."""
        self.chosen_at: tuple[int, ...] = ()
        """The ``standing`` after the last choice: a repeated choice would find nothing more."""

    @property
    def task(self) -> str:
        return self.session.lesson.task

    @property
    def report(self) -> Mapping[str, Any]:
        return self.record.get("report") or {}

    @property
    def standing(self) -> tuple[int, int, int]:
        """Numbers of labels, of messages, and of those that wait."""
        return len(self.session.rows), self.session.size, self.session.waiting

    @property
    def few(self) -> list[str]:
        """Labels with too few messages to train."""
        return [label for label in self.session.lesson.labels if self.session.counts[label] < FEWEST]

    def text_of(self, id: Any) -> str:
        """The message with this id. :raises InvalidRequest: there is none."""
        if (text := self.session.find(lambda text: _id(text) == id)) is None:
            raise InvalidRequest("this message is no longer there")
        return text

    @property
    def _proposals(self) -> list[dict[str, Any]]:
        return self.session.proposed[:MOST_PROPOSALS]

    def accept(self, ids: str) -> None:
        """Gives messages the labels that are proposed. :param ids: of the messages, with commas between.
        :raises InvalidRequest: one of them has no proposal. :raises FeedbackError: they can't be stored."""
        proposed = {_id(one["text"]): one for one in self._proposals}
        wanted = list(dict.fromkeys(ids.split(",")))
        if not proposed.keys() >= set(wanted):
            raise InvalidRequest("some of these messages have no proposal any more")
        for one in (proposed[id] for id in wanted):
            self.session.label(one["text"], one["guess"], one["model"])

    def note_accuracy(self, count: int) -> bool:
        """Adds the session's accuracy with ``count`` labels to the curve. :return: whether there is one."""
        found = self.session.accuracy
        if found is None:
            return False
        curve = [point for point in self.record.get("curve", []) if point[0] < count]
        self.record["curve"] = [*curve, [count, found["share"], *found["interval"]]][-MOST_POINTS:]
        return True

    def note_report(self, report: Mapping[str, Any], digest: str, calibration: Calibration | None) -> None:
        """Keeps what a training says, and what thresholds mean: [threshold, answered, wrong at most]."""
        points = () if calibration is None else calibration.risk
        thresholds = []
        for wanted in sorted({*THRESHOLDS, self._threshold}):
            point = next((point for point in points if point.threshold >= wanted), None)
            if point is not None:
                thresholds.append([wanted, point.coverage, point.error])
        self.record["report"] = {
            **{key: report.get(key) for key in ("accuracy", "interval", "rows")},
            "thresholds": thresholds,
            "digest": digest,
        }

    def state(self) -> dict[str, Any]:
        """What the page shows, a JSON object."""
        session, shown = self.session, self.session.present
        found, labels = session.accuracy or {}, session.lesson.labels
        return {
            "task": self.task,
            "labels": [
                {"key": key, "name": name, "meaning": meaning, "count": session.counts[name]}
                for key, (name, meaning) in zip(KEYS, labels.items(), strict=False)
            ],
            "message": None if shown is None else {**shown, "id": _id(shown["text"])},
            "following": [{**one, "id": _id(one["text"])} for one in session.following(FOLLOWING)],
            "proposals": [
                {**one, "text": one["text"][:SHOWN], "id": _id(one["text"])} for one in self._proposals
            ],
            "is_proposing": self.is_proposing,
            "doing": self.doing,
            "problem": self.problem,
            "is_over": session.is_over,
            "can_undo": session.can_undo,
            "labelled": len(session.rows),
            "messages": session.size,
            "few": self.few,
            "curve": self.record.get("curve", []),
            "confusion": _in_order(found.get("confusion"), labels),
            "doubted": [
                {**row, "id": _id(row["text"])}
                for row in found.get("doubted", ())
                if row["text"] not in self.confirmed and session.label_of(row["text"]) == row["label"]
            ],
            "report": self.record.get("report"),
            "compared": self.record.get("compared"),
            "threshold": self._threshold,
        }


def _in_order(confusion: Mapping[str, Any] | None, labels: Collection[str]) -> dict[str, Any] | None:
    """A confusion table with the order of ``labels``."""
    if confusion is None:
        return None
    found, counts = confusion["labels"], confusion["counts"]
    order = [found.index(name) for name in labels if name in found]
    return {
        "labels": [found[at] for at in order],
        "counts": [[counts[row][column] for column in order] for row in order],
    }


def _id(text: str) -> str:
    """Names a message on the page."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
