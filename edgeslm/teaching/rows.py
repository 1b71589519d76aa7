"""Rows of earlier labels, from the feedback store, and recorded messages, from files."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgeslm.errors import EdgeslmError, InvalidRequest
from edgeslm.protocol.strict_json import parse_json
from edgeslm.storage.feedback_store import PROPOSED, Correction, FeedbackStore, is_used, is_waiting
from edgeslm.teaching.session import Row

FEWEST = 2
"""Texts that each label needs."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one task: those given here go into ``store``, and those of ``others`` count too, if a
    newer one doesn't replace them.

    ``ids`` are the request ids of texts, by which ``edgeslm purge`` finds their rows.
    """

    store: FeedbackStore
    task: str
    others: FeedbackStore | None = None
    ids: Mapping[str, str] = field(default_factory=dict)

    def keep(self, row: Row) -> None:
        """:raises FeedbackError: the row can't be stored."""
        text = row["text"]
        proposed = row.get(PROPOSED)
        self.store.keep(Correction(self.task, text, row["label"], id=self.ids.get(text), proposed=proposed))

    def take_back(self, text: str) -> None:
        """:raises FeedbackError: the row can't be removed."""
        self.store.take_back(self.task, text)

    def rows(self) -> list[Mapping[str, Any]]:
        """:raises FeedbackError: a file can't be read."""
        others = self.others.rows(self.task) if self.others is not None else []
        return [*others, *self.store.rows(self.task)]

    def settle(self, rows: Sequence[Row]) -> None:
        """Decides about corrections over MQTT whose texts have labels in ``rows``: training uses those with
        the same label. :raises FeedbackError: the file can't be rewritten."""
        given, store = {row["text"]: row["label"] for row in rows}, self.others or self.store
        met = [row for row in store.rows(self.task) if is_waiting(row) and row["text"] in given]
        for use in (True, False):
            meant = [row for row in met if (row.get("label") == given[row["text"]]) is use]
            if meant:
                store.decide(self.task, meant, use=use)


def earlier_rows(given: Labels, labels: Collection[str]) -> list[Row]:
    """Labels that were given before, the newest of each text; those of removed labels are left out.

    :raises FeedbackError: the file can't be read.
    """
    rows = [row for row in given.rows() if is_used(row) and row.get("label") in labels]
    found = {row["text"]: row["label"] for row in rows}
    return [{"text": text, "label": label} for text, label in found.items()]


def waiting_rows(given: Labels, labels: Collection[str]) -> list[Row]:
    """Corrections that came over MQTT and wait for a decision, the newest of each text, with ``by``."""
    rows = [row for row in given.rows() if is_waiting(row) and row.get("label") in labels]
    found = {row["text"]: row for row in rows}
    return [{"text": row["text"], "label": row["label"], "by": str(row["by"])} for row in found.values()]


class LineReader(Protocol):
    """Reads the texts of a line in a form of its own; None if the line has another form."""

    def __call__(self, line: str, /) -> list[str] | None: ...


def read_messages(
    file: Path, most_bytes: int | None = None, *, texts_of: LineReader = lambda line: None
) -> list[str]:
    """Texts of a file with JSON lines ``{"text"}``, or with a text in each line; of a ``.csv`` file, the
    column ``text``.

    :param most_bytes: how much is read, from the end of the file; None: all.
    :param texts_of: reads lines of another form first.
    :raises EdgeslmError: the file can't be read.
    """
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            start = max(0, size - most_bytes) if most_bytes is not None else 0
            stream.seek(start)
            content = stream.read()
        lines = content.decode("utf-8", "strict" if not start else "replace").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeslmError(f"{file} can't be read: {getattr(error, 'strerror', None) or error}.") from None
    if file.suffix.lower() == ".csv":
        return _column(file, "\n".join(lines))
    texts = []
    for line in lines[1 if start else 0 :]:
        text = line.rstrip("\r")
        if (found := texts_of(text)) is not None:
            texts += found
            continue
        with contextlib.suppress(InvalidRequest):
            row: Any = parse_json(line)
            text = row["text"] if isinstance(row, dict) and isinstance(row.get("text"), str) else text
        texts += [text] if text.strip() else []
    return texts


def _column(file: Path, content: str) -> list[str]:
    """Texts of the column ``text``, whose separator may be that of a spreadsheet."""
    import csv
    import io

    head = content.removeprefix("\ufeff").partition("\n")[0]
    separator = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(content.removeprefix("\ufeff")), delimiter=separator, restval="")
    if "text" not in (rows.fieldnames or ()):
        raise EdgeslmError(f"{file} has no column text; its first line is {head[:80]!r}.")
    try:
        return [text for row in rows if (text := row["text"]).strip()]
    except csv.Error as error:
        raise EdgeslmError(f"{file} isn't CSV: {error} (line {rows.line_num}).") from None
