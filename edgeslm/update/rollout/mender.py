"""Mender update module, protocol v3: the states that its client goes through with a bundle.

Written from Mender's "Update modules v3 protocol". Each state is a process of its own, and after a power cut
the client goes on with the states that undo: what was begun stands in the book. The states wait: install
until the node has switched, commit until its trial is over.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import Config
from edgeslm.errors import RolloutError
from edgeslm.update.incoming import ENDINGS, model_of
from edgeslm.update.rollout.jobs import Book, Part, RolloutJob, Step
from edgeslm.update.rollout.models import Bring, RolloutModels
from edgeslm.update.rollout.state_machine import StateMachine

MOST_BYTES: Final = 100_000
"""Of ``meta-data``."""
LOOK_EVERY_S: Final = 0.2
AWAY_S: Final = 60.0
"""For which the node may be away while it is to switch, or to end its trial."""
PATIENCE_S: Final = 3600.0
"""For the node's tests, beside the trial."""
JOB: Final = "mender"


class Payload:
    """What the client's folder says of what is to be installed; a context, in which its archive stays open.

    :raises RolloutError: it isn't one archive for one model.
    """

    def __init__(self, folder: Path, models: Any) -> None:
        self._folder = folder
        self._models = models
        self._open = ExitStack()

    def __enter__(self) -> Payload:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def check(self) -> None:
        """As far as that can be told before the archive is here."""
        if (model := self._named()) is not None:
            self._known(model)

    def archive(self) -> tuple[str, IO[bytes], str]:
        """The model, the archive and its name."""
        files = self._folder / "files"
        found = sorted(files.iterdir()) if files.is_dir() else []
        if len(found) != 1 or not found[0].name.endswith(ENDINGS):
            raise RolloutError(
                f"the artifact has {len(found)} files and should have one archive ({', '.join(ENDINGS)})"
            )
        model = self._known(self._named() or model_of(found[0]))
        return model, self._open.enter_context(found[0].open("rb")), found[0].name

    def _named(self) -> str | None:
        """By the meta-data of the artifact, which may be left out."""
        try:
            with (self._folder / "header/meta-data").open("rb") as stream:
                text = stream.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        if not text.strip():
            return None
        try:
            said = json.loads(text) if len(text) <= MOST_BYTES else None
        except (ValueError, RecursionError):
            said = ""
        if said is None and len(text) <= MOST_BYTES:
            return None
        if not isinstance(said, dict) or not isinstance(said.get("model", ""), str):
            raise RolloutError('the meta-data of the artifact is not as {"model": "small"}')
        return said.get("model") or None

    def _known(self, model: str) -> str:
        if model not in self._models:
            known = ", ".join(self._models)
            raise RolloutError(f"there is no model {model[:100]!r} on this node; there are: {known}")
        return model


class Module:
    """The states of one node. Each returns when it is done.

    :param payload: see :class:`Payload`. Root has opened it, before it went on as the node's user.
    """

    def __init__(self, config: Config) -> None:
        # The configuration knows of no server: that there is one is known here.
        config = config.model_copy(update={"signing": config.signing.settled(strangers=True)})
        self._config = config
        self._models = RolloutModels(config)
        self.book = Book(self._models.store.folder, config.node, JOB)

    def install(self, model: str, archive: IO[bytes], name: str) -> None:
        """:raises RolloutError: the node doesn't take it; it is what it was."""

        def bring(part: Part, stop: threading.Event) -> Bundle:
            return self._models.staging(stop).take(archive, name)

        work = self._work(bring)
        job = RolloutJob(
            id=JOB, state="IN_PROGRESS", step="downloading", parts=(Part(model=model, name=name),)
        )
        work.begin(job)
        self._drive(work, "watching")
        self._expect("watching")

    def commit(self) -> None:
        """:raises RolloutError: the node took it back."""
        if self.book.job is None:
            raise RolloutError("nothing was installed that could be committed")
        self._drive(self._work())
        self._expect("done")

    def roll_back(self) -> None:
        """Nothing if nothing was switched. :raises RolloutError: the old model can't be had back."""
        job = self.book.job
        if job is None or (job.is_over and job.state != "SUCCEEDED"):
            return
        if job.is_over:  # committed, and then another payload of the artifact failed
            self.book.put(job.model_copy(update={"state": "IN_PROGRESS", "step": "watching"}))
        work = self._work()
        work.stop("FAILED", "Mender rolled it back")
        self._drive(work)
        for part in job.parts:
            if part.before not in (None, part.digest) and self._models.digest(part.model) == part.digest:
                raise RolloutError(self.book.job.why if self.book.job is not None else "")

    def clean_up(self) -> None:
        """Forgets the job; it was undone before, if it had to be."""
        self.book.file.unlink(missing_ok=True)

    def _work(self, bring: Bring | None = None) -> StateMachine:
        def gone(part: Part, stop: threading.Event) -> Bundle:
            raise RolloutError("the installation was cut short")

        timeout_s = self._config.updates.trial_s + PATIENCE_S
        return StateMachine(self.book, self._models, bring or gone, timeout_s=timeout_s)

    def _drive(self, work: StateMachine, until: Step = "done") -> None:
        """Until the job has come to that step, or is over."""
        seen = time.monotonic()
        while (job := self.book.job) is not None and not job.is_over and job.step != until:
            work.look()
            now = time.monotonic()
            if self._models.is_node_running or job.step in ("downloading", "downloaded"):
                seen = now
            elif now - seen >= AWAY_S:
                work.stop("FAILED", "the node doesn't run")
            time.sleep(LOOK_EVERY_S)

    def _expect(self, step: str) -> None:
        job = self.book.job
        if job is None or job.step != step or job.state not in ("IN_PROGRESS", "SUCCEEDED"):
            raise RolloutError(f"{job.state}: {job.why}" if job is not None else "it was forgotten")
