"""Staging: brings a bundle into the store from a folder, an archive, or a resumable download.

The parent process writes downloads to disk, up to a size limit. A child process (``unpacking``) reads the
downloads, which are untrusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.errors import BundleError
from edgeslm.ipc.job import Job, JobError
from edgeslm.update.allowance import Allowance, Show, Stopped, TooLarge
from edgeslm.update.downloads import Download, Promise, ServerLogin, Unreachable
from edgeslm.update.sources import SCHEME
from edgeslm.update.store import Store

log = logging.getLogger("edgeslm.update")

CHILD: Final = "edgeslm.update.unpacking"
SLOWEST_BYTES_PER_S: Final = 1_000_000
"""Speed of a busy SD card, from which the time limit of the child process is computed. The child writes each
file, reads the file again and syncs it."""
MOST_PACKED: Final = 1100
"""Compression ratio from which the time limit of the child process is computed; gzip's maximum is 1032."""
MOST_KEPT: Final = 3
"""Number of partial downloads that are kept besides the current one."""
KEPT_S: Final = 7 * 24 * 3600.0
"""How long a partial download is kept."""


Brought = TypeVar("Brought")


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """Limits of the child process."""

    memory_bytes: int = 200_000_000
    """Number of bytes that the child may allocate after its start. The limit doesn't depend on file sizes,
    since files are streamed."""
    least_s: float = 300.0
    """Time limit for an empty bundle; larger bundles get more time."""


CHILD_LIMITS: Final = ChildLimits()


class Staging:
    """Brings bundles into a store.

    :param budget_bytes: maximum size of one bundle, packed or unpacked.
    :param within: prefixes of the URLs to which redirects may lead; if empty, redirects may lead to any URL
        with an allowed scheme.
    :param stop: event that another thread sets to cancel the staging.
    :param allow_http: whether addresses without TLS are allowed.
    """

    def __init__(
        self,
        store: Store,
        *,
        budget_bytes: int,
        login: ServerLogin | None = None,
        stop: threading.Event | None = None,
        show: Show = lambda done, of: None,
        within: Sequence[str] = (),
        allow_http: bool = False,
        limits: ChildLimits = CHILD_LIMITS,
    ) -> None:
        self._store = store
        self._limits = limits
        self._allowance = Allowance(store.folder, budget_bytes, stop or threading.Event(), show)
        self._schemes = (SCHEME, "http://") if allow_http else (SCHEME,)
        self._download = Download(
            self._allowance, login or ServerLogin(), within=within, schemes=self._schemes
        )

    def bring(self, source: str, promise: Promise | None = None) -> Bundle:
        """
        :param source: a folder, a ``.tar`` archive (may be compressed), or an archive's ``https://`` address.
        :param promise: expected size and hashes of a download.
        :raises BundleError: the source can't be read, exceeds the budget, or isn't a complete bundle.
        """
        try:
            if source.startswith(self._schemes):
                return self.fetch(source, promise, lambda archive, name: self._unpack({}, name, archive))
            if "://" in source:
                raise BundleError(f"{source}: only {SCHEME} addresses, folders and archives are taken")
            path = Path(source)
            if path.is_dir():
                return self._unpack({"folder": str(path)}, source)
            with path.open("rb") as archive:
                return self._unpack({}, path.name, archive)
        except OSError as error:
            raise BundleError(f"{error.filename or source}: {error.strerror or error}") from None

    def take(self, archive: IO[bytes], name: str) -> Bundle:
        """Adds the bundle in an open archive to the store; the archive's file may belong to another user.

        :raises BundleError: as :meth:`bring`.
        """
        try:
            return self._unpack({}, name, archive)
        except OSError as error:
            raise BundleError(f"{error.filename or name}: {error.strerror or error}") from None

    def check_room(self, size: int, what: str, present: int = 0) -> None:
        """:param size: bytes to come. :param present: bytes of the same bundle that are there.
        :raises BundleError: they are above the budget or the free disk space."""
        self._allowance.check_budget(size + present, what)
        self._allowance.check_room(size, what)

    def fetch(
        self,
        url: str,
        promise: Promise | None,
        use: Callable[[IO[bytes], str], Brought],
        most: int | None = None,
    ) -> Brought:
        """Downloads a file, calls ``use`` with the open file and its name, and deletes the file.

        :param most: largest size of a file without a promise, besides the budget.
        :return: the value of ``use``.
        :raises BundleError: as :meth:`bring`. :raises OSError: a disk error.
        """
        self._store.folder.mkdir(parents=True, exist_ok=True)
        file = self._store.folder / f".part-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        self._delete_old(file)
        with file.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unreachable(f"{url}: is being downloaded already") from None
            try:
                if promise is not None:
                    self._allowance.check_room(promise.size - file.stat().st_size, url)
                self._download.bring(url, file, most if promise is None else promise.size)
            except BundleError as error:
                if isinstance(error, TooLarge) or not file.stat().st_size:
                    _remove(file)
                raise
            try:
                if promise is not None:
                    promise.check(file, url)
                with file.open("rb") as archive:
                    brought = use(archive, file.name)
            except (Stopped, Unreachable):
                raise
            except BaseException:  # the download is complete and bad: a retry must not reuse it
                _remove(file)
                raise
            _remove(file)
            return brought

    # The child process

    def _unpack(self, order: dict[str, Any], name: str, archive: IO[bytes] | None = None) -> Bundle:
        """Unpacks a bundle in a child process with limited memory and time, so that a hostile archive harms
        only the child."""
        self._allowance.look()
        budget = self._allowance.budget_bytes
        order |= {"state_dir": str(self._store.folder.parent), "budget_bytes": budget, "name": name}
        work, files = budget, []
        if archive is not None:
            order["archive"] = archive.fileno()
            files = [archive.fileno()]
            work = min(budget, MOST_PACKED * os.fstat(archive.fileno()).st_size)
        with Job(CHILD, files=files) as job, self._allowance.stopping(job):
            try:
                said = job.ask(
                    order,
                    timeout_s=self._limits.least_s + work / SLOWEST_BYTES_PER_S,
                    memory_bytes=self._limits.memory_bytes,
                    on_progress=lambda progress: self._allowance.show(*progress),
                )
            except JobError as error:
                self._store.clear()  # drafts of the child
                self._allowance.look()
                raise BundleError(f"{name}: it can't be taken in: {error}") from None
        if "error" in said:
            raise BundleError(said["error"])
        return load_bundle(Path(said["path"]), said["digest"])

    def _delete_old(self, wanted: Path) -> None:
        """Deletes partial downloads that are older than ``KEPT_S`` or in excess of ``MOST_KEPT``."""
        parts = [file for file in self._store.folder.glob(".part-*") if file.suffix != ".json"]
        with contextlib.suppress(OSError):
            parts.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        others = [file for file in parts if file != wanted]
        for file in parts:
            with contextlib.suppress(OSError), file.open("rb") as lock:
                is_old = time.time() - file.stat().st_mtime > KEPT_S
                if is_old or file in others[MOST_KEPT:]:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not in use
                    _remove(file)


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".json").unlink(missing_ok=True)
