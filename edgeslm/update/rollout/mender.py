"""Mender update module, protocol v3: the states in which Mender's client installs a bundle.

The implementation follows Mender's "Update modules v3 protocol". Each state runs in a separate process. The
progress is on disk (:class:`Book`), so that the client can roll back after a power cut. The state
``ArtifactInstall`` lasts until the node has switched the model, and ``ArtifactCommit`` until the trial is
over.
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
"""Size limit of the artifact's file ``meta-data``, in bytes."""
LOOK_EVERY_S: Final = 0.2
AWAY_S: Final = 60.0
PATIENCE_S: Final = 3600.0
"""Time limit of an installation, in addition to the duration of the trial."""
JOB: Final = "mender"


class Payload:
    """The artifact in the folder of Mender's client; a context manager that keeps the archive open.

    :raises RolloutError: the artifact isn't one archive for one model.
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
        """Checks the model's name before the archive is downloaded."""
        if (model := self._named()) is not None:
            self._known(model)

    def archive(self) -> tuple[str, IO[bytes], str]:
        """The model's name, the open archive, and the archive's name."""
        files = self._folder / "files"
        found = sorted(files.iterdir()) if files.is_dir() else []
        if len(found) != 1 or not found[0].name.endswith(ENDINGS):
            raise RolloutError(
                f"the artifact has {len(found)} files and should have one archive ({', '.join(ENDINGS)})"
            )
        model = self._known(self._named() or model_of(found[0]))
        return model, self._open.enter_context(found[0].open("rb")), found[0].name

    def _named(self) -> str | None:
        """The model that the artifact's ``meta-data`` names; None if it names none."""
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
    """Runs the states of Mender's protocol for one node. Each method runs one state, and returns when the
    state is over.

    :param away_s: how long the node may be down during the switch or the trial.
    :param look_every_s: pause between checks of the node's state.
    """

    def __init__(self, config: Config, *, away_s: float = AWAY_S, look_every_s: float = LOOK_EVERY_S) -> None:
        self._away_s = away_s
        self._look_every_s = look_every_s
        # Bundles come from a server that the configuration doesn't name: require signatures.
        config = config.model_copy(update={"signing": config.signing.settled(strangers=True)})
        self._config = config
        self._models = RolloutModels(config)
        self.book = Book(self._models.store.folder, config.node, JOB)

    def install(self, model: str, archive: IO[bytes], name: str) -> None:
        """Installs an archive as the node's user; the caller has opened the archive as root.
        :raises RolloutError: the node refuses the archive; the model is unchanged.
        """

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
        """Waits for the end of the trial. :raises RolloutError: the node rolled back."""
        if self.book.job is None:
            raise RolloutError("nothing was installed that could be committed")
        self._drive(self._work())
        self._expect("done")

    def roll_back(self) -> None:
        """Rolls back if a model was switched. :raises RolloutError: the old bundle can't be restored."""
        job = self.book.job
        if job is None or (job.is_over and job.state != "SUCCEEDED"):
            return
        if job.is_over:  # another payload of the artifact failed after the commit
            self.book.put(job.model_copy(update={"state": "IN_PROGRESS", "step": "watching"}))
        work = self._work()
        work.stop("FAILED", "Mender rolled it back")
        self._drive(work)
        for part in job.parts:
            if part.before not in (None, part.digest) and self._models.digest(part.model) == part.digest:
                raise RolloutError(self.book.job.why if self.book.job is not None else "")

    def clean_up(self) -> None:
        """Deletes the job's record."""
        self.book.file.unlink(missing_ok=True)

    def _work(self, bring: Bring | None = None) -> StateMachine:
        def gone(part: Part, stop: threading.Event) -> Bundle:
            raise RolloutError("the installation was cut short")

        timeout_s = self._config.updates.trial_s + PATIENCE_S
        return StateMachine(self.book, self._models, bring or gone, timeout_s=timeout_s)

    def _drive(self, work: StateMachine, until: Step = "done") -> None:
        """Continues the job until it is over or reaches the step ``until``."""
        seen = time.monotonic()
        while (job := self.book.job) is not None and not job.is_over and job.step != until:
            work.look()
            now = time.monotonic()
            if self._models.is_node_running or job.step in ("downloading", "downloaded"):
                seen = now
            elif now - seen >= self._away_s:
                work.stop("FAILED", "the node doesn't run")
            time.sleep(self._look_every_s)

    def _expect(self, step: str) -> None:
        job = self.book.job
        if job is None or job.step != step or job.state not in ("IN_PROGRESS", "SUCCEEDED"):
            raise RolloutError(f"{job.state}: {job.why}" if job is not None else "it was forgotten")
