"""A job: what a server wants of this node's models, how far that has come, and what is to be told of it.

States are named as AWS IoT Jobs names those of job executions (AWS IoT Core, "Jobs"). All of it stands in one
record on the disk, replaced in one step before anything is done by it, so that a power cut at any moment is
gone on from.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeslm.errors import RolloutError
from edgeslm.storage.atomic_json import write_record
from edgeslm.storage.file_ownership import is_ours
from edgeslm.update.downloads import Promise
from edgeslm.update.rollout.ddi import Execution, Finished

log = logging.getLogger("edgeslm.update")

State = Literal[
    "QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "REMOVED", "CANCELED"
]
"""REJECTED is what never served, FAILED what was taken back, REMOVED what the server forgot, CANCELED what it
took back."""
OVER: Final = frozenset({"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "REMOVED", "CANCELED"})

Step = Literal["waiting", "downloading", "downloaded", "switching", "watching", "undoing", "done"]
"""``downloaded`` waits for a maintenance window, ``watching`` is the trial, ``undoing`` switches back."""
MOST_REPORTS: Final = 64


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Value):
    """A bundle for a model. ``digest`` is the bundle's once it is here, ``before`` what the model was when it
    was to become it; ``brought`` whether the bundle came for this job; ``asked`` whether the node was asked
    to switch and has not answered."""

    model: str
    url: str = ""
    name: str = ""
    size: int = 0
    hashes: dict[str, str] = {}
    digest: str | None = None
    before: str | None = None
    brought: bool = False
    asked: bool = False
    tries: int = 0

    @property
    def promise(self) -> Promise:
        return Promise(self.size, self.hashes)


class RolloutJob(_Value):
    """``spent_s`` is counted while it can go on, since boards begin in 1970. ``end`` is what it becomes
    when all is undone. ``version`` is the server's name for what it brings, empty if it has none."""

    id: str
    version: str = ""
    state: State = "QUEUED"
    step: Step = "waiting"
    parts: tuple[Part, ...] = ()
    may_download: bool = True
    may_update: bool = True
    spent_s: float = 0.0
    end: State | None = None
    why: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def waits_for_server(self) -> bool:
        """Whether it goes on when the server says so: its window is closed, say."""
        return (self.step == "waiting" and not self.may_download) or (
            self.step == "downloaded" and not self.may_update
        )


class Report(_Value):
    """What the server is to hear: of ``action`` itself, or of its cancellation."""

    action: str
    about: Literal["deploymentBase", "cancelAction"] = "deploymentBase"
    execution: Execution
    finished: Finished = "none"
    details: tuple[str, ...] = ()
    at_ms: int = 0


class Record(_Value):
    """``told`` is a digest of the attributes that the server has, ``version`` that of the last job that
    switched models."""

    format: int = Field(default=1, ge=1, le=1)
    job: RolloutJob | None = None
    version: str = ""
    reports: tuple[Report, ...] = ()
    told: str = ""


@contextlib.contextmanager
def alone(folder: Path, node: str, name: str) -> Iterator[None]:
    """While this process keeps that book: what two of them write would not be what either knows.

    :raises RolloutError: another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{name}-{node}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RolloutError(f"edgeslm rollout {name} is running already for the node {node}") from None
        yield
    finally:
        os.close(descriptor)


class Book:
    """The record of one node.

    :param folder: the store's. :param name: whose it is, such as ``hawkbit``.
    """

    def __init__(self, folder: Path, node: str, name: str) -> None:
        self.file = folder / f"{name}-{node}.json"
        self.record = self._read()

    @property
    def job(self) -> RolloutJob | None:
        return self.record.job

    def put(self, job: RolloutJob | None, *reports: Report) -> None:
        """:raises OSError: the disk; then nothing has changed."""
        kept = (*self.record.reports, *reports)[-MOST_REPORTS:]
        switched = job is not None and job.state == "SUCCEEDED" and job.may_update
        version = job.version if job is not None and switched else self.record.version
        self._write(self.record.model_copy(update={"job": job, "reports": kept, "version": version}))

    def spend(self, seconds: float) -> RolloutJob | None:
        """Counts time for the job; on the disk with its next step."""
        job = self.record.job
        if job is not None:
            job = job.model_copy(update={"spent_s": job.spent_s + seconds})
            self.record = self.record.model_copy(update={"job": job})
        return job

    def drop_report(self, report: Report) -> None:
        """It was delivered. :raises OSError: the disk."""
        left = tuple(one for one in self.record.reports if one is not report)
        self._write(self.record.model_copy(update={"reports": left}))

    def note_told(self, told: str) -> None:
        """:raises OSError: the disk."""
        self._write(self.record.model_copy(update={"told": told}))

    def _write(self, record: Record) -> None:
        write_record(self.file, record.model_dump())
        self.record = record

    def _read(self) -> Record:
        try:
            with self.file.open("rb") as stream:
                if not is_ours(os.fstat(stream.fileno())):
                    log.warning("%s can be written by others and is not believed", self.file)
                    return Record()
                return Record.model_validate_json(stream.read(4_000_000))
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as error:
            log.error("%s can't be read, so it begins anew: %s", self.file, str(error).partition("\n")[0])
            return Record()
