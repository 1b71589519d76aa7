"""Download allowance: limits the size of a bundle by counting its bytes as they arrive."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Protocol

from edgeslm.errors import BundleError
from edgeslm.ipc.job import Job

PIECE: Final = 1 << 20
LOOK_EVERY_S: Final = 0.2
RESERVE_BYTES: Final = 200_000_000
"""Disk space kept free for the journal."""


class Show(Protocol):
    """Callback for progress: receives the number of bytes so far, and the total if it is known."""

    def __call__(self, done: int, of: int | None, /) -> None: ...


class Stopped(BundleError):
    """The download was cancelled."""


class TooLarge(BundleError):
    """More bytes came, or would come, than are allowed."""


class Allowance:
    """
    :param folder: folder that the bundle is written to.
    :param budget_bytes: maximum size of one bundle, packed or unpacked.
    :param stop: event that another thread sets to cancel the download.
    """

    def __init__(self, folder: Path, budget_bytes: int, stop: threading.Event, show: Show) -> None:
        self._folder = folder
        self.budget_bytes = budget_bytes
        self._stop = stop
        self.show = show

    def pour(
        self,
        read: IO[bytes] | Any,
        written: IO[bytes],
        done: int,
        size: int | None,
        what: str,
        most: int | None = None,
    ) -> int:
        """Copies the stream ``read`` to the stream ``written``. :param done: number of bytes copied by
        earlier calls. :param most: largest number of bytes, besides the budget. :return: number of bytes
        copied by this call and the earlier calls.

        :raises TooLarge: there are more bytes.
        """
        # read1 returns what one network read brings: a slow sender must not delay a cancellation.
        some = getattr(read, "read1", read.read)
        while piece := some(PIECE):
            self.look()
            done += len(piece)
            self.check_budget(done, what)
            if most is not None and done > most:
                raise TooLarge(f"{what}: it has more than the {most} bytes that it may have")
            written.write(piece)
            self.show(done, size)
        return done

    def check_budget(self, size: int, what: str) -> None:
        """:raises TooLarge: the ``size`` in bytes is above the budget."""
        if size > self.budget_bytes:
            raise TooLarge(
                f"{what}: it has more than the {self.budget_bytes / 1e6:.0f} MB that a bundle may have "
                "(updates.budget_bytes)"
            )

    def check_room(self, size: int, what: str) -> None:
        """:raises BundleError: the ``size`` in bytes is above the budget or the free disk space."""
        self.check_budget(size, what)
        self._folder.mkdir(parents=True, exist_ok=True)
        if size > (free := self.free_bytes(self._folder)):
            raise BundleError(
                f"{what}: {size / 1e6:.0f} MB are needed on the disk and {free / 1e6:.0f} are free"
            )

    @staticmethod
    def free_bytes(folder: Path) -> int:
        """Free bytes on the folder's disk, minus ``RESERVE_BYTES``."""
        return max(0, shutil.disk_usage(folder).free - RESERVE_BYTES)

    @contextlib.contextmanager
    def stopping(self, job: Job) -> Iterator[None]:
        """Context manager: a thread stops ``job`` if the download is cancelled inside the block."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOOK_EVERY_S):
                if self._stop.is_set():
                    job.stop()
                    return

        thread = threading.Thread(target=watch, name="staging-stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def wait(self, seconds: float) -> None:
        """:raises Stopped: the download was cancelled."""
        self._stop.wait(seconds)
        self.look()

    def look(self) -> None:
        """:raises Stopped: the download was cancelled."""
        if self._stop.is_set():
            raise Stopped("it was cancelled")
