"""Work folder of a long job: kept if the job is interrupted, so that the same job goes on from there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.subprocess_job import ChildKilled

from edgeslm.errors import ExportError


def work_path(out: Path, key: bytes) -> Path:
    """The work folder, next to ``out``, of the job that writes ``out``. :param key: all that the kept files
    depend on."""
    return out.resolve().parent / f".{out.name}.work-{hashlib.sha256(key).hexdigest()[:16]}"


@contextlib.contextmanager
def kept_work(folder: Path, out: Path) -> Iterator[Notes]:
    """The notes of an interrupted job in ``folder``, or of a new one. At the end of the block the folder is
    removed, unless the block or a child was interrupted, with those of other jobs that write ``out``.

    :raises ExportError: another process runs the same job.
    """
    notes = Notes(folder)
    with _locked(folder):
        try:
            yield notes
        except (KeyboardInterrupt, ChildKilled):
            raise
        except BaseException:
            notes.remove()
            raise
        notes.remove()
    for other in out.resolve().parent.iterdir():
        if other.name.startswith(f".{out.name}.work-"):
            with contextlib.suppress(ExportError, OSError), _locked(other):
                shutil.rmtree(other, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportError(f"Another process makes this export in {folder}; wait for it.") from None
        yield
