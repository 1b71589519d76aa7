"""Reading worker: the child process that reads files (``python -m edgeslm.knowledge.readers.read_worker``).

All messages are JSON objects. A request from the parent process has the keys ``path`` and ``source``. While a
file is read, a progress message has either the key ``part``, with a value such as ``page 12 of 400``, or the
key ``log``, with a log message. Then messages with batches of ``passages`` (heading, text, start, end) and
``rows`` (number, start, end, cells) follow. The last message has the keys ``title`` and ``columns``. If the
file can't be read, the last message has the key ``refused``, with the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeslm.errors import KnowledgeError
from edgeslm.ipc import job
from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.readers.reader import read_document

AT_ONCE = 64_000
"""Approximate number of characters in a batch."""
TELL_EVERY_S = 0.2


class _LogForwarder(logging.Handler):
    """Forwards log messages of readers to the parent process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.progress: job.Progress = lambda said: None

    def emit(self, record: logging.LogRecord) -> None:
        self.progress({"log": record.getMessage()})


_LOG_FORWARDER = _LogForwarder()


def answer(order: Any, progress: job.Progress, tell_every_s: float = TELL_EVERY_S) -> Any:
    _LOG_FORWARDER.progress = progress
    source = order["source"]
    reported_at = time.monotonic()

    def report_page(page: int, pages: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at > tell_every_s:
            reported_at = time.monotonic()
            progress({"part": f"page {page:,} of {pages:,}"})

    try:
        document = read_document(Path(order["path"]), source, on_page=report_page)
        found = ((len(one.text), [one.heading, one.text, one.start, one.end]) for one in split(document))
        for some in _batches(found):
            progress({"passages": some})
    except KnowledgeError as error:
        return {"refused": str(error)}
    except MemoryError:
        raise
    except Exception as error:  # a bug; only the type, since the exception's text may quote the document
        return {"refused": f"{source} can't be read ({type(error).__name__})."}
    table = document.table
    if table is not None:
        rows = ((sum(map(len, row.cells)), [row.number, row.start, row.end, row.cells]) for row in table.rows)
        for some in _batches(rows):
            progress({"rows": some})
    columns = None if table is None else [asdict(column) for column in table.columns]
    return {"title": document.title, "columns": columns}


def _batches(items: Iterable[tuple[int, list[Any]]]) -> Iterator[list[list[Any]]]:
    """Groups items into batches. :param items: pairs of an item's length in characters and the item."""
    some: list[list[Any]] = []
    room = AT_ONCE
    for size, item in items:
        some.append(item)
        room -= size + 1
        if room <= 0:
            yield some
            some, room = [], AT_ONCE
    if some:
        yield some


def main() -> None:
    logging.getLogger("edgeslm.knowledge").addHandler(_LOG_FORWARDER)
    job.serve(answer)


if __name__ == "__main__":
    main()
