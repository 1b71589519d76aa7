"""Rollout jobs: the target bundles of a server's deployment, the job's progress, and unsent reports.

States are named like those of AWS IoT job executions (AWS IoT Core, "Jobs"). A job is one record on disk,
replaced atomically before each step, so that the job continues after a power cut.
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
"""``REJECTED``: the bundle never served requests. ``FAILED``: the bundle was rolled back. ``REMOVED``: the
server no longer offers the bundle. ``CANCELED``: the server cancelled the job."""
OVER: Final = frozenset({"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "REMOVED", "CANCELED"})

Step = Literal["waiting", "downloading", "downloaded", "switching", "watching", "undoing", "done"]
"""In the step ``downloaded``, a job may wait for a maintenance window; ``watching`` is the trial; ``undoing``
is the rollback."""
MOST_REPORTS: Final = 64


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Value):
    """A bundle for a model. ``digest`` is set once the bundle is on the device. ``before`` is the digest of
    the bundle that the model used before the switch. ``brought``: whether the bundle was downloaded for
    this job. ``asked``: whether the node was asked to switch and hasn't answered."""

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
    """``spent_s``: seconds that the job has run, not counting waits for the server's permission; it isn't
    computed from dates, since a board's clock may start in 1970. ``end``: the job's state once the step
    ``undoing`` is over. ``version``: the deployment's version on the server; may be empty."""

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
        """Whether the job waits for the server's permission, for example for a maintenance window."""
        return (self.step == "waiting" and not self.may_download) or (
            self.step == "downloaded" and not self.may_update
        )


class Report(_Value):
    """A message for the server about ``action`` or its cancellation."""

    action: str
    about: Literal["deploymentBase", "cancelAction"] = "deploymentBase"
    execution: Execution
    finished: Finished = "none"
    details: tuple[str, ...] = ()
    at_ms: int = 0


class Record(_Value):
    """``told``: digest of the attributes sent last. ``version``: version of the last job that switched
    models."""

    format: int = Field(default=1, ge=1, le=1)
    job: RolloutJob | None = None
    version: str = ""
    reports: tuple[Report, ...] = ()
    told: str = ""


@contextlib.contextmanager
def alone(folder: Path, node: str, name: str) -> Iterator[None]:
    """Context manager: locks the :class:`Book`, which only one process may write.

    :raises RolloutError: another process has the lock.
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
    """A node's rollout record on disk.
    :param folder: the store's folder. :param name: the client's name, such as ``hawkbit``.
    """

    def __init__(self, folder: Path, node: str, name: str) -> None:
        self.file = folder / f"{name}-{node}.json"
        self.record = self._read()

    @property
    def job(self) -> RolloutJob | None:
        return self.record.job

    def put(self, job: RolloutJob | None, *reports: Report) -> None:
        """Replaces the job and appends reports. :raises OSError: a disk error; nothing has changed."""
        kept = (*self.record.reports, *reports)[-MOST_REPORTS:]
        switched = job is not None and job.state == "SUCCEEDED" and job.may_update
        version = job.version if job is not None and switched else self.record.version
        self.write(self.record.model_copy(update={"job": job, "reports": kept, "version": version}))

    def spend(self, seconds: float) -> RolloutJob | None:
        """Adds ``seconds`` to the job's ``spent_s``, which is written to disk with the job's next step."""
        job = self.record.job
        if job is not None:
            job = job.model_copy(update={"spent_s": job.spent_s + seconds})
            self.record = self.record.model_copy(update={"job": job})
        return job

    def drop_report(self, report: Report) -> None:
        """Deletes a delivered report. :raises OSError: a disk error."""
        left = tuple(one for one in self.record.reports if one is not report)
        self.write(self.record.model_copy(update={"reports": left}))

    def note_told(self, told: str) -> None:
        """Records the digest of the attributes sent. :raises OSError: a disk error."""
        self.write(self.record.model_copy(update={"told": told}))

    def write(self, record: Record) -> None:
        """Replaces the record. :raises OSError: a disk error; nothing has changed."""
        write_record(self.file, record.model_dump())
        self.record = record

    def _read(self) -> Record:
        try:
            with self.file.open("rb") as stream:
                if not is_ours(os.fstat(stream.fileno())):
                    log.warning("%s can be written by other users and is ignored", self.file)
                    return Record()
                return Record.model_validate_json(stream.read(4_000_000))
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as error:
            log.error("%s can't be read and is reset: %s", self.file, str(error).partition("\n")[0])
            return Record()
