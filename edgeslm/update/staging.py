"""A bundle is brought onto this device: from a folder, an archive, or a download that can break off.

Nothing of it is run. What comes is counted against a budget while it comes, since an archive may claim
anything, and is taken in by the store once every file has its digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import shutil
import ssl
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from edgeslm.bundle import Bundle, load_bundle
from edgeslm.errors import BundleError
from edgeslm.update.sources import SCHEME
from edgeslm.update.store import Store

log = logging.getLogger("edgeslm.update")

Show = Callable[[int, int | None], None]
"""Bytes that are here, of how many, if that is known."""

MOST_FILES: Final = 10_000
PIECE: Final = 1 << 20
RESERVE_BYTES: Final = 200_000_000
"""Left on the disk, or the journal could write nothing."""
SILENT_S: Final = 30.0
PAUSES_S: Final = (1.0, 5.0, 15.0, 60.0)
"""Between the tries of a download; each goes on where the one before ended, which counts anew if it got any
further."""
KEPT_S: Final = 7 * 24 * 3600.0
"""For which a download that broke off is kept."""


class Stopped(BundleError):
    """Somebody wants it to end."""


class Staging:
    """Brings bundles into a store.

    :param budget_bytes: the most that one bundle may have, packed and unpacked.
    :param ca_file: certificates (PEM) that downloads trust; the system's if None.
    :param within: addresses below which downloads must stay, where they are led elsewhere; any if empty.
    :param stop: set it, and what runs in another thread ends soon.
    """

    def __init__(
        self,
        store: Store,
        *,
        budget_bytes: int,
        ca_file: Path | None = None,
        stop: threading.Event | None = None,
        show: Show = lambda done, of: None,
        within: Sequence[str] = (),
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._store = store
        self._budget = budget_bytes
        self._ca_file = ca_file
        self._stop = stop or threading.Event()
        self._show = show
        self._within = tuple(start.rstrip("/") + "/" for start in within if start.startswith(SCHEME))
        self._pauses_s = pauses_s

    def bring(self, source: str) -> Bundle:
        """
        :param source: a folder, a ``.tar`` archive, packed or not, or such an archive's ``https://`` address.
        :raises BundleError: it can't be had, is more than the budget, or is no whole bundle.
        """
        try:
            if source.startswith(SCHEME):
                return self._bring_from(source)
            if "://" in source:
                raise BundleError(f"{source}: only {SCHEME} addresses, folders and archives are taken")
            path = Path(source)
            return self._copy(path) if path.is_dir() else self._unpack(path)
        except OSError as error:
            raise BundleError(f"{error.filename or source}: {error.strerror or error}") from None

    def _bring_from(self, url: str) -> Bundle:
        self._store.folder.mkdir(parents=True, exist_ok=True)
        self._forget_old()
        file = self._store.folder / f".part-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        with file.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BundleError(f"{url}: is being brought already") from None
            try:
                self._download(url, file)
            except BundleError:
                if not file.stat().st_size:
                    file.unlink()
                raise
            try:
                return self._unpack(file)
            finally:  # what is whole and wrong would be wrong again
                file.unlink(missing_ok=True)
                file.with_suffix(".json").unlink(missing_ok=True)

    # Folders and archives

    def _copy(self, folder: Path) -> Bundle:
        bundle = load_bundle(folder)
        size = sum(entry.bytes for entry in bundle.manifest.files)
        self._check_room(size, str(folder))
        done = 0
        with self._store.draft() as draft:
            for file in sorted(folder.rglob("*")):
                if not file.is_file():
                    continue
                target = draft / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open("rb") as read, target.open("wb") as written:
                    done = self._pour(read, written, done, size, str(folder))
            return self._store.add(draft)

    def _unpack(self, archive: Path) -> Bundle:
        with self._store.draft() as draft:
            inside = draft / "inside"
            inside.mkdir()
            try:
                with tarfile.open(archive, "r:*") as tar:
                    self._extract(tar, archive, inside)
            except (tarfile.TarError, EOFError, ValueError) as error:
                said = str(error).partition("\n")[0]
                raise BundleError(f"{archive.name}: no archive that can be unpacked ({said})") from None
            except OSError as error:
                if isinstance(error, FileNotFoundError | PermissionError) or error.errno is not None:
                    raise
                raise BundleError(f"{archive.name}: no archive that can be unpacked ({error})") from None
            folders = [inside, *(child for child in inside.iterdir() if child.is_dir())]
            found = next((folder for folder in folders if (folder / "manifest.json").is_file()), None)
            if found is None:
                raise BundleError(f"{archive.name}: there is no manifest.json in it")
            return self._store.add(found)

    def _extract(self, tar: tarfile.TarFile, archive: Path, target: Path) -> None:
        total = files = 0
        free = max(0, shutil.disk_usage(target).free - RESERVE_BYTES)
        for member in tar:
            self._look()
            files, total = files + 1, total + max(0, member.size)
            if files > MOST_FILES:
                raise BundleError(f"{archive.name}: it has more than {MOST_FILES} files")
            self._check_budget(total, archive.name)
            if total > free:
                raise BundleError(f"{archive.name}: {free / 1e6:.0f} MB are free, and it has more")
            if not (member.isfile() or member.isdir()):
                raise BundleError(f"{archive.name}: {member.name} is neither a file nor a folder")
            self._write_member(tar, member, archive.name, target)

    def _write_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, target: Path) -> None:
        """A file with its content alone: no owner, no mode, no time, and nowhere but below ``target``."""
        parts = PurePosixPath(member.name).parts
        if member.name.startswith("/") or ".." in parts:
            raise BundleError(f"{name}: {member.name} leads out of it")
        path = target.joinpath(*parts)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            return
        read = tar.extractfile(member)
        if read is None:
            raise BundleError(f"{name}: {member.name} can't be read")
        path.parent.mkdir(parents=True, exist_ok=True)
        with read, path.open("xb") as written:
            while piece := read.read(PIECE):
                self._look()
                written.write(piece)

    # Downloads

    def _download(self, url: str, file: Path) -> None:
        """The archive, whole as far as its sender tells."""
        left = list(self._pauses_s)
        while True:
            before = file.stat().st_size if file.exists() else 0
            try:
                self._fetch(url, file)
                return
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise BundleError(f"{url}: the server says {error.code} {error.reason}") from None
                why = f"{error.code} {error.reason}"
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise BundleError(
                        f"{url}: its certificate isn't trusted ({reason.verify_message})"
                    ) from None
                why = str(reason) or type(error).__name__
            if file.exists() and file.stat().st_size > before:
                left = list(self._pauses_s)
            if not left:
                raise BundleError(f"{url}: can't be downloaded ({why}); what came is kept for the next try")
            log.warning("%s broke off (%s); it goes on in %g s", url, why, left[0])
            if self._stop.wait(left.pop(0)):
                self._look()

    def _fetch(self, url: str, file: Path) -> None:
        """One try, from where the file ends, if the server has still the same."""
        notes = file.with_suffix(".json")
        known = _read_notes(notes) if file.exists() else {}
        have = file.stat().st_size if known else 0
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        if have and known.get("tag"):
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", known["tag"])
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self._ca_file)),
            _OnlyHttps(self._within),
        )
        try:
            answer = opener.open(request, timeout=SILENT_S)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # all of it is here, or it has become shorter
                if known.get("size") == have:
                    return
                notes.unlink(missing_ok=True)  # then it begins anew
            raise
        with answer:
            goes_on = answer.status == 206 and _start_of(answer.headers.get("Content-Range")) == have
            if not goes_on:
                have = 0
            length = answer.headers.get("Content-Length")
            size = have + int(length) if length is not None and length.isdecimal() else None
            self._check_room((size or 0) - have, url)
            self._check_budget(size or 0, url)
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if tag and tag.startswith("W/"):
                tag = None  # a weak one doesn't mean the same bytes
            notes.write_text(json.dumps({"tag": tag, "size": size, "url": url}))
            with file.open("ab" if goes_on else "wb") as written:
                done = self._pour(answer, written, have, size, url)
                written.flush()
                os.fsync(written.fileno())
            if size is not None and done < size:
                raise ConnectionError(f"it ended after {done} of {size} bytes")

    def _forget_old(self) -> None:
        for file in self._store.folder.glob(".part-*"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > KEPT_S:
                    file.unlink()

    # Bounds

    def _pour(self, read: IO[bytes] | Any, written: IO[bytes], done: int, size: int | None, what: str) -> int:
        while piece := read.read(PIECE):
            self._look()
            done += len(piece)
            self._check_budget(done, what)
            written.write(piece)
            self._show(done, size)
        return done

    def _check_budget(self, size: int, what: str) -> None:
        if size > self._budget:
            raise BundleError(
                f"{what}: it has more than the {self._budget / 1e6:.0f} MB that a bundle may have "
                "(updates.budget_bytes)"
            )

    def _check_room(self, size: int, what: str) -> None:
        self._check_budget(size, what)
        self._store.folder.mkdir(parents=True, exist_ok=True)
        free = max(0, shutil.disk_usage(self._store.folder).free - RESERVE_BYTES)
        if size > free:
            raise BundleError(
                f"{what}: {size / 1e6:.0f} MB are needed on the disk and {free / 1e6:.0f} are free"
            )

    def _look(self) -> None:
        if self._stop.is_set():
            raise Stopped("it was broken off")


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """A redirection must not lead to where nobody can tell who answers, or out of what is allowed."""

    def __init__(self, within: tuple[str, ...]) -> None:
        self._within = within

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(SCHEME):
            raise BundleError(f"{req.full_url}: leads to {newurl}; only {SCHEME} addresses are taken")
        if self._within and not newurl.startswith(self._within):
            raise BundleError(f"{req.full_url}: leads to {newurl}, which is not below what may be named")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_notes(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _start_of(content_range: str | None) -> int | None:
    """Of ``bytes 5-9/10``, 5 (RFC 9110, section 14.4)."""
    unit, _, rest = (content_range or "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None
