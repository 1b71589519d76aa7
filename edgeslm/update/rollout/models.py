"""Rollout access to the models of a node on this device: their bundles, and commands to change them.

Everything goes through the store and the command file, so that a rollout can't bypass the node's signature
check, tests and trial.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any, Literal, Protocol

from edgeslm.bundle.manifest import load_bundle
from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import Config
from edgeslm.errors import BundleError
from edgeslm.update.command_file import CommandFile, FileCommand
from edgeslm.update.outcomes import UpdateOutcomes
from edgeslm.update.rollout.jobs import Part
from edgeslm.update.staging import Staging
from edgeslm.update.store import Store

Standing = Literal["other", "on trial", "proved"]


class Brought(Protocol):
    """A bundle on this device."""

    @property
    def digest(self) -> str: ...


class Bring(Protocol):
    """Brings a part's bundle onto this device; setting ``stop`` cancels the download."""

    def __call__(self, part: Part, stop: threading.Event, /) -> Brought: ...


class RolloutModels:
    """The models of one node, which doesn't have to be running."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(config.state_dir, config.node)
        self._command_file = CommandFile(config.state_dir, config.node)
        self._update_outcomes = UpdateOutcomes(self.store.folder, config.node)

    @property
    def is_node_running(self) -> bool:
        return self._command_file.is_node_running

    def digest(self, model: str) -> str | None:
        """Digest of the model's bundle, from the store's record or the configuration; None if unknown."""
        if model not in self.config.models:  # a job may be older than the configuration
            return None
        base = _digest(self.config.models[model].bundle)
        entry = self.store.entry(model)
        return entry.active if entry is not None and base in (None, entry.base) else base

    def standing(self, model: str, digest: str) -> Standing:
        """Whether the model uses this bundle, and whether the bundle is on trial."""
        if self.digest(model) != digest:
            return "other"
        entry = self.store.entry(model)
        return "on trial" if entry is not None and entry.tries is not None else "proved"

    def why(self, model: str, digest: str) -> str:
        """Why the model's update to the bundle ``digest`` failed; empty if unknown."""
        return self._update_outcomes.why(model, digest)

    def staging(self, stop: threading.Event | None = None, **how: Any) -> Staging:
        return Staging(self.store, budget_bytes=self.config.updates.budget_bytes, stop=stop, **how)

    def bring(self, staging: Staging, part: Part, stop: threading.Event) -> Brought:
        """Downloads a part's bundle. :raises BundleError: see :meth:`Staging.bring`."""
        return staging.bring(part.url, part.promise)

    def stage(self, bring: Bring, part: Part, stop: threading.Event) -> tuple[Brought, bool]:
        """Brings a bundle onto this device and checks its signature, if the configuration requires one.

        :return: the bundle, and whether it is new in the store.
        :raises BundleError: the bundle isn't available or isn't trusted.
        """
        before = {one.bundle.digest for one in self.store.bundles()}
        bundle = bring(part, stop)
        is_new = bundle.digest not in before
        trust = Trust(self.config.signing, self.config.state_dir)
        try:
            trust.load(self.store.find(bundle.digest).path)
            asyncio.run(trust.check())
        except BundleError:
            if is_new:
                self.forget(bundle.digest)
            raise
        return bundle, is_new

    def forget(self, digest: str) -> None:
        """Deletes a bundle unless a model uses it."""
        with contextlib.suppress(BundleError, OSError):
            self.store.remove(digest, self.config)

    def roll_back(self, model: str) -> bool:
        """Rolls back a model of a stopped node, if the model has a previous bundle.

        :return: always True, since nothing is left to do. :raises OSError: a disk error.
        """
        with contextlib.suppress(BundleError):
            self.store.roll_back(model)
        return True

    def command(
        self, action: Literal["activate", "rollback"], model: str, digest: str | None = None
    ) -> FileCommand:
        """:raises BundleError: another command is pending. :raises OSError: a disk error."""
        return self._command_file.make(action, model, digest)

    def heard(self, command: FileCommand) -> dict[str, Any] | None:
        return self._command_file.heard(command)

    def withdraw(self, command: FileCommand) -> None:
        self._command_file.withdraw(command)


def _digest(bundle: Path) -> str | None:
    try:
        return load_bundle(bundle).digest
    except BundleError:
        return None
