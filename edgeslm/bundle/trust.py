"""Bundle trust: which bundles this node may run. All bundles are loaded through this module.

A job (``edgeslm.bundle.signature``) checks each combination of manifest, signature and key once; the result
is recorded on disk. At every load, the engine compares the manifest with the checked digest, and the files
with the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.bundle.manifest import SIGNATURE, Bundle, file_digest, load_bundle
from edgeslm.config.sections import Signing
from edgeslm.errors import BundleError
from edgeslm.ipc.job import PYTHON, Job, JobError
from edgeslm.storage.atomic_json import write_record
from edgeslm.storage.file_ownership import is_ours

if TYPE_CHECKING:
    from edgeslm.bundle.signature import SignatureVerdict

log = logging.getLogger("edgeslm.bundle")

MODULE = "edgeslm.bundle.signature"
RECORD = "signatures.json"
NOT_SIGNED = "not signed"
REMEMBERED = 256
"""Largest number of bundles in the record of verified signatures; if there are more, the oldest are
removed."""
TIMEOUT_S = 120.0
SLOWEST_BYTES_PER_S = 5_000_000
"""Assumed reading speed of a busy SD card; each file is read once."""
MEMORY_BYTES = 400_000_000
"""Memory limit of the job, which is enough for the largest signature and manifest; files are read in
pieces."""


def _bytes_below(folder: Path) -> int:
    """Number of bytes that the check will read. Unreadable files are skipped here, since the check reports
    them."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _ask(
    job: Job,
    bundles: Sequence[Path],
    keys: Sequence[Path],
    *,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> list[SignatureVerdict]:
    """Returns a verdict for each bundle.

    :raises BundleError: the check itself failed.
    """
    order = {"bundles": list(map(str, bundles)), "keys": list(map(str, keys))}
    timeout_s += sum(map(_bytes_below, bundles)) / SLOWEST_BYTES_PER_S
    try:
        verdicts = job.ask(order, timeout_s=timeout_s, memory_bytes=memory_bytes)
    except JobError as error:
        if error.reason == "time":
            raise BundleError(
                f"the check of signatures was ended after {timeout_s:.0f} s; is the disk slow?"
            ) from None
        raise BundleError(f"the check of signatures failed: {error}") from None
    except OSError as error:
        raise BundleError(f"the check of signatures can't be started: {error.strerror}") from None
    from edgeslm.bundle.signature import SignatureVerdict  # few nodes check signatures

    return [SignatureVerdict(**verdict) for verdict in verdicts]


def check_bundles(
    bundles: Sequence[Path],
    keys: Sequence[Path],
    *,
    command: Sequence[str] = PYTHON,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> list[SignatureVerdict]:
    """Returns a verdict for each bundle; blocks for a second or more.

    :param command: command line that runs the check's module; the default is this Python.
    :param timeout_s: time limit, in addition to the time to read the bundles.
    :raises BundleError: the check itself failed, for example by a lack of memory or a timeout.
    """
    with Job(MODULE, command=command) as job:
        return _ask(job, bundles, keys, timeout_s=timeout_s, memory_bytes=memory_bytes)


def describe_signature(bundle: Path) -> str:
    """Describes a bundle's signature without verifying it."""
    from edgeslm.bundle.signature import parse_statement, read_signature

    try:
        statement = parse_statement(read_signature(bundle), str(bundle / SIGNATURE))
    except FileNotFoundError:
        return NOT_SIGNED
    except BundleError as error:
        return str(error)
    by = f"by a key with the SHA-256 {statement.key[:16]}..., " if statement.key else ""
    return f"signed {by}not verified, as no key was named"


class Trust:
    """Loads bundles; :meth:`check` must pass before any of these bundles runs.

    :param state_dir: folder that contains the record of checked signatures.
    """

    def __init__(self, signing: Signing, state_dir: Path, *, command: Sequence[str] = PYTHON) -> None:
        self._signing = signing
        self._record = state_dir / RECORD
        self._command = command
        self._loaded: list[Bundle] = []

    def load(self, path: Path) -> Bundle:
        """Loads a bundle.

        :raises BundleError: see ``load_bundle``.
        """
        bundle = load_bundle(path)
        self._loaded.append(bundle)
        return bundle

    async def check(self) -> None:
        """Checks that every bundle loaded so far is signed, if signatures are required.

        :raises BundleError: a bundle isn't signed, or the check failed; the error's text names the file.
        """
        if not self._signing.refuses:
            return
        keys = {_key_digest(key): key for key in self._signing.keys}
        known = self._remembered()
        loaded = {(bundle.path, bundle.digest): bundle for bundle in self._loaded}.values()
        unknown = [bundle for bundle in loaded if known.get(bundle.digest) not in _marks(bundle, keys)]
        if not unknown:
            return
        with Job(MODULE, command=self._command) as job:  # ended if the node is stopped meanwhile
            paths = [bundle.path for bundle in unknown]
            verdicts = await job.in_thread(_ask, job, paths, list(keys.values()))
        digests = {str(key): digest for digest, key in keys.items()}
        refused = []
        for bundle, verdict in zip(unknown, verdicts, strict=True):
            if verdict.status != "signed":
                refused.append(verdict.sentence)
            elif verdict.bundle != bundle.digest:
                refused.append(f"{bundle.path}: was replaced while it was checked; start again")
            else:
                log.info("%s is signed by %s", bundle.path, verdict.key)
                known[bundle.digest] = _mark(verdict.signature, digests[verdict.key])
        self._remember(known)
        if refused:
            raise BundleError("; ".join(refused) + " (unsigned bundles are refused: signing.unsigned)")

    def _remembered(self) -> dict[str, str]:
        """The record of verified signatures, which maps each manifest digest to one string with the digests
        of the signature and of the key. The result is empty if other users can write the record."""
        try:
            with self._record.open("rb") as stream:
                status = os.fstat(stream.fileno())
                known = json.load(stream)
        except (OSError, ValueError, RecursionError):
            return {}
        if not is_ours(status):
            log.warning(
                "%s can be written by other users and is ignored: signatures are checked again", self._record
            )
            return {}
        if not isinstance(known, dict) or not all(isinstance(mark, str) for mark in known.values()):
            return {}
        return known

    def _remember(self, known: dict[str, str]) -> None:
        kept = dict(list(known.items())[-REMEMBERED:])
        try:
            write_record(self._record, kept)
        except OSError as error:
            log.warning(
                "%s can't be written (%s): signatures are checked at every start", self._record, error
            )


def _mark(signature: str, key: str) -> str:
    return f"{signature} {key}"


def _marks(bundle: Bundle, keys: dict[str, Path]) -> set[str]:
    """The strings in the record that prove that one of ``keys`` verified the bundle's current signature."""
    try:
        signature = f"sha256:{file_digest(bundle.path / SIGNATURE)}"
    except OSError:
        return set()
    return {_mark(signature, key) for key in keys}


def _key_digest(key: Path) -> str:
    try:
        return "sha256:" + hashlib.sha256(key.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"signing.keys: {key}: {error.strerror}") from None
