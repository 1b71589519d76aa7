"""Bundle store: the bundles on this device, and a record of each model's active bundle.

A bundle is a folder ``<state_dir>/updates/<name>-<digest>``, which is renamed to this name once it is
complete. The record is replaced atomically, so that after a power cut it names the old bundle or the new one.
The configuration file is never changed; if the user names another bundle in the configuration, that bundle
takes precedence over the record.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeslm.bundle.manifest import Bundle, load_bundle, verify_bundle
from edgeslm.config.schema import Config
from edgeslm.errors import BundleError
from edgeslm.storage.atomic_json import sync, write_record
from edgeslm.storage.file_ownership import is_ours
from edgeslm.update.releases import Releases
from edgeslm.update.slots import digest_of, misfit, path_of, slots, task_of, with_bundle

log = logging.getLogger("edgeslm.update")

FOLDER: Final = "updates"
DRAFT: Final = ".draft-"
MOST_TRIES: Final = 2
"""Maximum number of starts of the node with a bundle on trial; if the node crashes after the last of them,
the next start rolls the model back."""


class StoreEntry(BaseModel):
    """Digests of the active, previous and configured bundle (``base``) of a slot (``slots``).

    ``tries`` counts the node's starts with the active bundle on trial; None if the bundle is proven.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    active: str
    previous: str | None = None
    tries: int | None = None


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=1, ge=1, le=1)
    models: dict[str, StoreEntry] = {}


@dataclass(frozen=True, slots=True)
class Stored:
    """A bundle in the store. ``used_by``: this node's models that have the bundle as active or previous
    bundle."""

    bundle: Bundle
    used_by: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(entry.bytes for entry in self.bundle.manifest.files)


class Store:
    """The bundles in a state folder, and one node's record of its active bundles."""

    def __init__(self, state_dir: Path, node: str) -> None:
        self.folder = state_dir / FOLDER
        self._file = self.folder / f"active-{node}.json"
        self._releases = Releases(self.folder / f"releases-{node}.json")
        self.problems: dict[str, str] = {}
        """Models whose recorded bundle can't be used, with the reason as a sentence."""

    # Lookup

    def bundles(self) -> list[Stored]:
        """All complete bundles, sorted by name."""
        entries = self._read().models
        found = []
        for folder in sorted(self.folder.glob("*-*")):
            with contextlib.suppress(BundleError):
                bundle = load_bundle(folder) if folder.is_dir() else None
                if bundle is not None and folder.name.endswith(_tail(bundle)):
                    users = [
                        name for name, one in entries.items() if bundle.digest in (one.active, one.previous)
                    ]
                    found.append(Stored(bundle, tuple(users)))
        return found

    def find(self, digest: str) -> Bundle:
        """A bundle by its digest or a prefix of at least 4 characters.

        :raises BundleError: no bundle matches, or several do.
        """
        start = digest.removeprefix("sha256:")
        hits = [
            one.bundle
            for one in self.bundles()
            if one.bundle.digest.removeprefix("sha256:").startswith(start)
        ]
        if len(hits) != 1 or len(start) < 4:
            what = "no bundle" if not hits else "more than one bundle"
            raise BundleError(f"{what} on this device has the digest {digest}")
        return hits[0]

    def entry(self, model: str) -> StoreEntry | None:
        return self._read().models.get(model)

    def settled(self, config: Config) -> Config:
        """A copy of ``config`` that names the active bundle of each model and trained task, or the previous
        bundle if the active one can't be used."""
        self.problems.clear()
        known = slots(config)
        settled = config
        entries = self._read().models.items()
        for name, entry in sorted(entries, key=lambda item: task_of(item[0]) is not None):  # models first
            if name not in known:
                continue
            base = digest_of(path_of(config, name))
            if base is not None and base != entry.base:
                log.info("model %s: the configuration names another bundle now, which goes first", name)
                continue
            for digest in (entry.active, entry.previous):
                if digest is None or digest == entry.base:
                    break
                try:
                    bundle = self.find(digest)
                    self._check_fit(settled, name, bundle)
                    settled = with_bundle(settled, name, bundle.path)
                    break
                except BundleError as error:
                    self.problems[name] = f"Model {name} is not the bundle that it was switched to: {error}."
                    log.error("model %s: %s", name, error)
        return settled

    @staticmethod
    def _check_fit(config: Config, slot: str, bundle: Bundle) -> None:
        """:raises BundleError: the configuration has changed, so that its task can't use the bundle."""
        if (task := task_of(slot)) is not None:
            digests = {digest_of(model.bundle) or "" for model in config.models.values()}
            if why := misfit(bundle, config.tasks[task], digests):
                raise BundleError(why)

    # Adding and removing

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """Context manager: a temporary folder for a new bundle. :raises OSError: a disk error."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = self.folder / f"{DRAFT}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o755)
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)  # so that another node's clear() leaves it
        try:
            yield folder
        finally:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, folder: Path) -> Bundle:
        """Moves a bundle from a draft into the store, after syncing it to disk.

        :raises BundleError: a file is missing or damaged. :raises OSError: a disk error.
        """
        bundle = load_bundle(folder)
        verify_bundle(bundle)
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", bundle.manifest.name).strip("-.")[:80] or "bundle"
        target = self.folder / f"{plain}{_tail(bundle)}"
        if target.is_dir():
            with contextlib.suppress(BundleError):
                present = load_bundle(target, bundle.digest)
                verify_bundle(present)
                return present
            target.rename(folder.with_name(f"{DRAFT}{secrets.token_hex(4)}"))  # damaged: delete it
        for file in (*folder.rglob("*"), folder):
            sync(file)
        folder.rename(target)
        sync(self.folder)
        return load_bundle(target, bundle.digest)

    def remove(self, digest: str, config: Config) -> Bundle:
        """Deletes a bundle.

        :raises BundleError: no bundle matches, the configuration names the bundle, or a model of any node has
            it as active, previous or base bundle.
        """
        bundle = self.find(digest)
        for what, path in config.bundles.items():
            if path.resolve() == bundle.path.resolve():
                raise BundleError(f"{bundle.path.name} is named in the configuration: {what}")
        users = [
            name
            for record in self.folder.glob("active-*.json")
            for name, one in _read(record).models.items()
            if bundle.digest in (one.active, one.previous, one.base)
        ]
        if users:
            raise BundleError(f"{bundle.path.name} is in use by model {', '.join(users)}")
        gone = bundle.path.with_name(f"{DRAFT}{secrets.token_hex(4)}")
        bundle.path.rename(gone)  # a bundle's name never has half of it
        shutil.rmtree(gone, ignore_errors=True)
        return bundle

    def clear(self) -> None:
        """Deletes drafts of killed processes; drafts in use are locked and stay."""
        for folder in self.folder.glob(f"{DRAFT}*"):
            with contextlib.suppress(OSError):
                lock = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)

    # The active bundles

    def activate(self, model: str, base: str, digest: str, *, on_trial: bool) -> None:
        """:param base: digest of the configured bundle. :raises OSError: a disk error."""
        before = self.entry(model)
        previous = before.active if before is not None and before.base == base else base
        self._put(
            model, StoreEntry(base=base, active=digest, previous=previous, tries=0 if on_trial else None)
        )

    def check_release(self, bundle: Bundle) -> None:
        """:raises BundleError: a higher release of this bundle was proven on this node."""
        self._releases.check(bundle)

    def note_release(self, bundle: Bundle) -> None:
        """Records the release of a proven bundle. :raises OSError: a disk error."""
        self._releases.note(bundle)

    def prove(self, model: str) -> None:
        """Ends the trial of a model; its active bundle is proven."""
        entry = self.entry(model)
        if entry is not None:
            self._put(model, entry.model_copy(update={"tries": None}))

    def roll_back(self, model: str) -> str:
        """Activates the previous bundle. A task's next roll-back is to what the configuration names.

        :return: the bundle's digest. :raises BundleError: there is no previous bundle.
        """
        entry = self.entry(model)
        if entry is None or entry.previous is None:
            raise BundleError(f"model {model} has nothing to go back to")
        left = None if task_of(model) is None else entry.base
        back = (
            None
            if entry.previous == entry.base
            else entry.model_copy(update={"active": entry.previous, "previous": left, "tries": None})
        )
        self._put(model, back)
        return entry.previous

    def take_back(self) -> list[str]:
        """Activates the previous bundles of the models on trial, or of all changed ones if none is; without a
        previous bundle, the configured one.

        :return: names of these models.
        """
        gone = self.on_trial or self.changed
        for name in gone:
            if (entry := self.entry(name)) is not None and entry.previous is not None:
                self.roll_back(name)
            else:
                self._put(name, None)
        return gone

    def restore(self, model: str, entry: StoreEntry | None) -> None:
        """Restores the entry that a model had before a failed switch; if ``entry`` is None, deletes the
        model's entry."""
        self._put(model, entry)

    def begin_start(self) -> list[str]:
        """Counts a start for each model on trial, and rolls back models with too many starts.

        :return: names of the models rolled back.
        """
        gone = []
        for name, entry in self._read().models.items():
            if entry.tries is None:
                continue
            if entry.tries >= MOST_TRIES:
                self.roll_back(name)
                gone.append(name)
            else:
                self._put(name, entry.model_copy(update={"tries": entry.tries + 1}))
        return gone

    def end_start(self) -> None:
        """Undoes the counting of :meth:`begin_start`; called when the node stops normally.

        :raises OSError: a disk error.
        """
        for name, entry in self._read().models.items():
            if entry.tries:
                self._put(name, entry.model_copy(update={"tries": entry.tries - 1}))

    @property
    def changed(self) -> list[str]:
        """Names of the models that have an entry in the record."""
        return list(self._read().models)

    @property
    def on_trial(self) -> list[str]:
        return [name for name, entry in self._read().models.items() if entry.tries is not None]

    def _put(self, model: str, entry: StoreEntry | None) -> None:
        models: Mapping[str, StoreEntry] = self._read().models
        kept = {name: one for name, one in models.items() if name != model}
        write_record(
            self._file, _Record(models=kept if entry is None else {**kept, model: entry}).model_dump()
        )

    def _read(self) -> _Record:
        return _read(self._file)


def _read(file: Path) -> _Record:
    try:
        with file.open("rb") as stream:
            if not is_ours(os.fstat(stream.fileno())):
                log.warning("%s can be written by other users and is ignored", file)
                return _Record()
            return _Record.model_validate_json(stream.read())
    except FileNotFoundError:
        return _Record()
    except (OSError, ValidationError) as error:
        log.error("%s can't be read, so models use the configured bundles: %s", file, error)
        return _Record()


def _tail(bundle: Bundle) -> str:
    """Suffix of a bundle's folder name; the store ignores folders with other suffixes."""
    return f"-{bundle.digest.removeprefix('sha256:')[:16]}"
