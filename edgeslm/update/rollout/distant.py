"""Rollout access to the models of a node that runs as another user, through the exchange folders.

The rollout process can't write the node's files. The process passes downloads to the node as files, which the
node checks and tests like any other bundle.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from edgeslm.config.loader import Config
from edgeslm.errors import BundleError
from edgeslm.update.allowance import Stopped
from edgeslm.update.command_file import FileCommand
from edgeslm.update.downloads import Unreachable
from edgeslm.update.exchange import Exchange, folder_beside
from edgeslm.update.rollout.jobs import Part
from edgeslm.update.rollout.models import Bring, Brought, Standing
from edgeslm.update.staging import Staging
from edgeslm.update.store import Store

LOOK_EVERY_S: Final = 0.2


def is_distant(config: Config) -> bool:
    """Whether the node runs as another user than this process, judged by the owner of the state folder;
    always false for root."""
    return os.geteuid() != 0 and config.state_dir.is_dir() and config.state_dir.stat().st_uid != os.geteuid()


def book_folder(config: Config) -> Path:
    """Folder of the rollout's record on disk (:class:`Book`)."""
    own = folder_beside(config.state_dir)
    return Store(own if is_distant(config) else config.state_dir, config.node).folder


@dataclass(frozen=True, slots=True)
class _Taken:
    digest: str


class DistantModels:
    """One node's models; has the interface of :class:`edgeslm.update.rollout.models.RolloutModels`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._exchange = Exchange(config.state_dir, config.node)
        self.store = Store(self._exchange.folder, config.node)
        """Store in the rollout process's folder, for downloads and the :class:`Book`."""

    @property
    def is_node_running(self) -> bool:
        return self._exchange.is_node_running

    def digest(self, model: str) -> str | None:
        said = self._status_of("models", model).get("digest")
        return said if isinstance(said, str) else None

    def standing(self, model: str, digest: str) -> Standing:
        if self.digest(model) != digest:
            return "other"
        return "on trial" if self._status_of("models", model).get("on_trial") else "proved"

    def why(self, model: str, digest: str) -> str:
        said = self._status_of("verdicts", model)
        return str(said.get("why", "")) if said.get("digest") in (digest, "") else ""

    def _status_of(self, what: str, model: str) -> dict[str, Any]:
        found = self._exchange.status().get(what)
        found = found.get(model) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def staging(self, stop: threading.Event | None = None, **how: Any) -> Staging:
        return Staging(self.store, budget_bytes=self.config.updates.budget_bytes, stop=stop, **how)

    def bring(self, staging: Staging, part: Part, stop: threading.Event) -> Brought:
        """Downloads a part's bundle and passes it to the node.

        :raises BundleError: the download failed, or the node refuses it.
        """

        def hand_over(archive: IO[bytes], name: str) -> Brought:
            self._exchange.offer(self.store.folder / name)
            if not self.is_node_running:
                raise Unreachable(f"{part.url}: the node doesn't run; what came is kept")
            command = self._exchange.make("stage", part.model, file=name)
            while (said := self._exchange.heard(command)) is None:
                if stop.wait(LOOK_EVERY_S):
                    self._exchange.withdraw(command)
                    raise Stopped("it was cancelled")
                if not self._exchange.is_node_running:
                    self._exchange.withdraw(command)
                    raise Unreachable(f"{part.url}: the node ended; what came is kept")
            if said.get("later"):
                raise Unreachable(f"{part.url}: {said.get('error')}")
            if not isinstance(said.get("digest"), str):
                raise BundleError(str(said.get("error", "the node refuses it")))
            return _Taken(said["digest"])

        try:
            return staging.fetch(part.url, part.promise, hand_over)
        except OSError as error:
            raise BundleError(f"{error.filename or part.url}: {error.strerror or error}") from None

    def stage(self, bring: Bring, part: Part, stop: threading.Event) -> tuple[Brought, bool]:
        """Brings a part's bundle to the node, which checks the signature.

        :return: the bundle, and True: the rollout process can't see whether the bundle is new, so all bundles
            count as new.
        """
        return bring(part, stop), True

    def forget(self, digest: str) -> None:
        """Does nothing: the node deletes unused bundles itself when it stages the next bundle."""

    def roll_back(self, model: str) -> bool:
        """Does nothing: only the running node can roll back. :return: always False."""
        return False

    def command(
        self, action: Literal["activate", "rollback"], model: str, digest: str | None = None
    ) -> FileCommand:
        """:raises OSError: a disk error."""
        return self._exchange.make(action, model, digest)

    def heard(self, command: FileCommand) -> dict[str, Any] | None:
        return self._exchange.heard(command)

    def withdraw(self, command: FileCommand) -> None:
        self._exchange.withdraw(command)
