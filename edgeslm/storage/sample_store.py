"""Sample store: messages of tasks, kept on this disk for a while, to be labelled in the console.

One SQLite file ``samples-<node>.sqlite``. Samples can be lost without harm: a damaged file, or one that was
encrypted with another key, is replaced by an empty one, and a full disk loses samples. If the journal is
encrypted, so are the samples' texts and ids; their times and tasks aren't. Deleted data is overwritten.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeslm.config.schema import Config
from edgeslm.errors import JournalError
from edgeslm.storage.erasure_filter import Choice, id_of
from edgeslm.storage.salvage import HEADER

if TYPE_CHECKING:
    from edgeslm.storage.encryption import Seal

log = logging.getLogger("edgeslm.storage")

FORMAT: Final = 1
LONGEST: Final = 4096
"""Maximum number of characters of a sample; longer messages aren't kept."""
_DAY_S: Final = 86_400.0
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL,
    at REAL NOT NULL,
    sample BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS samples_of ON samples (task, id);
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """A message of a task; ``id`` is that of its request."""

    task: str
    text: str
    id: str


class SampleStore:
    """The samples of one node; each text of a task is kept once. Only one thread at a time may use it.

    :param most: number of samples kept of each task, the newest. :param keep_s: their longest age.
    """

    def __init__(
        self, file: Path, *, seal: Seal | None = None, most: int = 2000, keep_s: float = 30 * _DAY_S
    ):
        self.file = file
        self.seal = seal
        self._most = most
        self._keep_s = keep_s
        self._db: sqlite3.Connection | None = None
        self._known: dict[str, set[bytes]] = {}
        self.added = 0
        """Number of samples added since the start."""
        self.problem: str | None = None
        """Why samples can't be stored now, as a sentence; None if they can."""

    def open(self) -> None:
        """Opens the file, or makes a new one instead of a damaged one. If that fails, too, :attr:`problem`
        says so and no sample is kept."""
        with self._trying():
            try:
                self._connect()
            except (sqlite3.DatabaseError, ValueError) as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                log.warning("%s can't be read (%s) and is made anew", self.file, error)
                self._remove()
                self._connect()

    def close(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def knows(self, task: str, text: str) -> bool:
        """Whether a text is kept already. May be called in another thread."""
        return _mark(text) in self._known.get(task, ())

    def add(self, samples: Sequence[Sample]) -> None:
        """Keeps samples, and deletes those that are too many or too old. A disk error loses them."""
        with self._trying():
            if self._db is None:
                self.open()
            if (db := self._db) is None:
                return
            now = time.time()
            db.execute("BEGIN IMMEDIATE")
            try:
                for one in samples:
                    known = self._known.setdefault(one.task, set())
                    if (mark := _mark(one.text)) in known or len(one.text) > LONGEST:
                        continue
                    row = (one.task, now, self._closed(one))
                    db.execute("INSERT INTO samples (task, at, sample) VALUES (?, ?, ?)", row)
                    known.add(mark)
                gone = self._too_many(db, now)
                db.execute("COMMIT")
                self.added += len(samples)
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                self._known = {}
                self.close()
                raise
            for task, mark in gone:
                self._known[task].discard(mark)

    def texts(self, task: str) -> dict[str, str]:
        """The texts of a task's samples, the newest first, with the ids of their requests."""
        with self._trying():
            if self._db is None:
                self.open()
            if self._db is not None:
                rows = self._db.execute("SELECT sample FROM samples WHERE task = ? ORDER BY id DESC", (task,))
                found = (self._opened(task, sample) for (sample,) in rows)
                return {one.text: one.id for one in found if one is not None}
        return {}

    def erase(self, choice: Choice, *, dry_run: bool) -> int:
        """Erases the samples that match; no byte of them stays in the file. The node must not run.

        :return: the number of them. :raises JournalError: the file can't be read or written.
        """
        if not self.file.exists():
            return 0
        try:
            with closing(self._opened_file()) as db:
                now, gone = time.time(), []
                for number, task, at, sample in db.execute("SELECT id, task, at, sample FROM samples"):
                    one = self._opened(task, sample)
                    if choice.fits(None if one is None else one.id, now - at):
                        gone.append((number,))
                if gone and not dry_run:
                    db.executemany("DELETE FROM samples WHERE id = ?", gone)
                    db.execute("VACUUM")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return len(gone)
        except sqlite3.Error as error:
            raise JournalError(f"{self.file} can't be written: {error}.") from None

    def _connect(self) -> None:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = self._opened_file()
        self._known = {}
        unread = 0
        for task, sample in self._db.execute("SELECT task, sample FROM samples"):
            one = self._opened(task, sample)
            unread += one is None
            if one is not None:
                self._known.setdefault(task, set()).add(_mark(one.text))
        if unread:
            raise ValueError(f"{unread} samples are of another key")

    def _opened_file(self) -> sqlite3.Connection:
        os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        with self.file.open("rb") as stream:
            header = stream.read(16)
        if header and header != HEADER:
            raise sqlite3.DatabaseError("it is no database")
        db = sqlite3.connect(self.file, isolation_level=None, timeout=1.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA cache_size = -256")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, FORMAT):
                raise sqlite3.DatabaseError(f"format {version}")
            db.executescript(_TABLES)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            db.close()
            raise
        return db

    def _too_many(self, db: sqlite3.Connection, now: float) -> list[tuple[str, bytes]]:
        gone: list[tuple[str, bytes]] = []
        for task, known in self._known.items():
            old = "SELECT id, sample FROM samples WHERE task = ? AND (at < ? OR at > ?)"
            rows = db.execute(old, (task, now - self._keep_s, now + _DAY_S)).fetchall()
            over = len(known) - len(rows) - self._most
            if over > 0:
                first = "SELECT id, sample FROM samples WHERE task = ? AND at >= ? ORDER BY id LIMIT ?"
                rows += db.execute(first, (task, now - self._keep_s, over)).fetchall()
            for number, sample in rows:
                db.execute("DELETE FROM samples WHERE id = ?", (number,))
                if (one := self._opened(task, sample)) is not None:
                    gone.append((task, _mark(one.text)))
        return gone

    def _closed(self, one: Sample) -> bytes:
        raw = json.dumps({"text": one.text, "id": one.id}, ensure_ascii=False).encode("utf-8", "replace")
        return raw if self.seal is None else self.seal.close(raw, _place(one.task))

    def _opened(self, task: str, sample: bytes) -> Sample | None:
        """The sample; None if it is damaged, or encrypted with another key."""
        try:
            raw = bytes(sample) if self.seal is None else self.seal.open(bytes(sample), _place(task))
            return Sample(task, str(json.loads(raw)["text"]), id_of(raw) or "")
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _remove(self) -> None:
        self.close()
        for end in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + end).unlink(missing_ok=True)

    @contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, MemoryError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            if self.problem is None:
                log.error("messages can't be kept for teaching (%s)", why)
            self.problem = f"Messages can't be kept for teaching ({why}); make room for {self.file.name}."
            self.close()
        else:
            if self._db is not None:
                self.problem = None


def _mark(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _place(task: str) -> bytes:
    """The associated data that binds an encrypted sample to its task."""
    return b"samples " + task.encode()


def samples_file(state_dir: Path, node: str) -> Path:
    return state_dir / f"samples-{node}.sqlite"


def samples_of(config: Config) -> SampleStore:
    """The samples of a node, not opened yet. :raises JournalError: the journal's key can't be used."""
    from edgeslm.storage.encryption import load_seal

    teach = config.console.teach if config.console is not None else None
    key_file = config.journal.key_file
    seal = load_seal(key_file) if key_file is not None else None
    file = samples_file(config.state_dir, config.node)
    if teach is None:
        return SampleStore(file, seal=seal)
    return SampleStore(file, seal=seal, most=teach.keep_messages, keep_s=teach.keep_days * _DAY_S)
