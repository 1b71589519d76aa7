"""Limited reading: reads files in a child process, whose time and memory limits depend on the file size.

If a file makes a reader hang, crash or use all memory, only the child process ends
(``edgeslm.knowledge.readers.read_worker``). Searches don't wait for the child, since it has its own
interpreter.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, Self

from edgeslm.errors import KnowledgeError
from edgeslm.ipc.job import PYTHON, Job, JobError
from edgeslm.knowledge.documents.cells import CellKind, Column, Row, Table
from edgeslm.knowledge.documents.kinds import COMPRESSED, OFFICE, Kind, find_kind
from edgeslm.knowledge.documents.passages import MAX_CHARACTERS, Document, Passage

log = logging.getLogger("edgeslm.knowledge")

COMMAND: Final = (*PYTHON,)
MODULE: Final = "edgeslm.knowledge.readers.read_worker"
# Measured on a server of 2026: at most 1.1 s for a MB of text or PDF, 40 s for ten thousand pages. A small
# board takes ten times as long.
MOST_S: Final = 600.0
"""Maximum time to read one file, in seconds."""
_LEAST_S: Final = 30.0
_BYTES_PER_S: Final = 50_000
MOST_MEMORY_BYTES: Final = 1_000_000_000
_LEAST_MEMORY_BYTES: Final = 128_000_000
"""Memory limit for an empty file, of which 25 MB are for libraries and the fonts of a small PDF."""
_MEMORY_FACTOR: Final = 32
"""Bytes added to the memory limit for each byte of the file. Reading a table takes 14 bytes of memory for
each byte of the file; reading a text takes 7 bytes. A single emoji quadruples a text's memory, since Python
then uses four bytes for each character."""
_UNPACKED: Final = 10
"""Assumed compression ratio of Office and ``.gz`` files."""
_ANSWER_BYTES: Final = 64_000_000
"""Maximum length of a message from the child in bytes; a message may contain a whole row of a table."""
MOST_CHARACTERS: Final = 4 * MAX_CHARACTERS
"""Maximum total length, in characters, of the passages and cells accepted from the child for a document."""


class ReadingError(KnowledgeError):
    """The child process was killed while it read a file, or exited on its own."""


def limits_of(path: Path, size: int, most_s: float = MOST_S) -> tuple[float, int]:
    """Time limit in seconds and memory limit in bytes for a file of ``size`` bytes."""
    kind = find_kind(path)
    if kind in OFFICE or (path.suffix.lower() == COMPRESSED and kind is not Kind.PDF):
        size = min(size * _UNPACKED, MAX_CHARACTERS)
    memory = _LEAST_MEMORY_BYTES + _MEMORY_FACTOR * size
    return min(most_s, _LEAST_S + size / _BYTES_PER_S), min(MOST_MEMORY_BYTES, memory)


class ReadingListener:
    """Callbacks for reading progress; by default, they do nothing."""

    def on_part(self, source: str, part: str) -> None:
        """Called with the progress in a large file, such as ``page 12 of 400``."""


class Reading:
    """A child process that reads many files. Use as a context manager; the process starts with the first
    file."""

    most_s = MOST_S
    """Maximum time to read one file, in seconds."""

    def __init__(self) -> None:
        self._job = Job(MODULE, command=COMMAND, answer_bytes=_ANSWER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._job.close()

    def read(
        self, path: Path, source: str, size: int, listener: ReadingListener
    ) -> tuple[Document, list[Passage]]:
        """The document, without its text, and its passages.

        :param size: size of the file, in bytes.
        :raises ReadingError: a limit was reached, or the child crashed.
        :raises KnowledgeError: see ``reader.read_document``; or no child can be started.
        """
        timeout_s, memory_bytes = limits_of(path, size, self.most_s)
        content = Content(source, listener)
        try:
            answer = self._job.ask(
                {"path": str(path), "source": source},
                timeout_s=timeout_s,
                memory_bytes=memory_bytes,
                on_progress=content.take,
            )
            try:
                return content.document(answer)
            except (TypeError, KeyError, ValueError, AttributeError):
                raise JobError("ended", "malformed answer") from None
        except JobError as error:
            why = {
                "time": f"takes longer than {timeout_s:,.0f} s to read",
                "memory": f"takes more than {memory_bytes / 1e6:,.0f} MB of memory to read",
            }.get(error.reason, "ended the process that read it")
            raise ReadingError(f"{source} {why}") from None
        except OSError as error:
            raise KnowledgeError(
                f"{source} can't be read: no process can be started: {error.strerror}."
            ) from None


class Content:
    """Builds a document from the child's messages; forwards the child's progress and log messages."""

    def __init__(
        self, source: str, listener: ReadingListener, most_characters: int = MOST_CHARACTERS
    ) -> None:
        self._source = source
        self._most_characters = most_characters
        self._listener = listener
        self._passages: list[Passage] = []
        self._rows: list[Row] = []
        self._characters = 0

    def take(self, said: Any) -> None:
        """:raises ValueError: the message is malformed."""
        try:
            match said:
                case {"passages": passages}:
                    for heading, text, start, end in passages:
                        self._count(text, *heading)
                        place = len(self._passages), tuple(heading), text, int(start), int(end)
                        self._passages.append(Passage(*place))
                case {"rows": rows}:
                    for number, start, end, cells in rows:
                        self._count(*cells)
                        self._rows.append(Row(int(number), int(start), int(end), tuple(cells)))
                case {"log": sentence}:
                    log.warning("%s", sentence)
                case {"part": part}:
                    self._listener.on_part(self._source, str(part))
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from None

    def document(self, answer: Any) -> tuple[Document, list[Passage]]:
        if "refused" in answer:
            raise KnowledgeError(answer["refused"])
        table = None
        if answer["columns"] is not None:
            columns = (Column(**{**each, "kind": CellKind(each["kind"])}) for each in answer["columns"])
            table = Table(tuple(columns), tuple(self._rows))
        return Document(self._source, answer["title"], "", (), table), self._passages

    def _count(self, *texts: str) -> None:
        self._characters += sum(map(len, texts))
        if self._characters > self._most_characters:
            raise ValueError
