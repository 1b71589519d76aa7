"""State machine of a rollout job: downloads bundles, switches models, waits for trials, rolls back.

::

    waiting -> downloading -> downloaded -> switching -> watching -> done
                                                |            |
                                                +------------+---> undoing -> done

:meth:`StateMachine.look` advances the job if possible. The :class:`Book` stores reports for the server.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any, Final, Literal

from edgeslm.errors import EdgeslmError, without_paths
from edgeslm.update.command_file import FileCommand
from edgeslm.update.downloads import Unreachable
from edgeslm.update.rollout.distant import DistantModels
from edgeslm.update.rollout.jobs import Book, Part, Report, RolloutJob, State, Step
from edgeslm.update.rollout.models import Bring, Brought, RolloutModels

log = logging.getLogger("edgeslm.update")

UNEXPLAINED_S: Final = 300.0
"""How many seconds to wait for the reason of a rollback. The node gives the reason after it has reloaded the
old bundle."""
MOST_TRIES: Final = 3
"""Maximum number of attempts to switch a model, if the node ends or doesn't answer during each attempt."""
SILENT_S: Final = 3600.0
AGAIN_S: Final = 60.0
"""Pause before a failed download is retried."""


class StateMachine:
    """Works on one job at a time.

    :param silent_s: timeout for a running node's answer. After the timeout the command is sent again, since
        the answer may have been lost if the disk was full or another command's answer overwrote it.
    """

    def __init__(
        self,
        book: Book,
        models: RolloutModels | DistantModels,
        bring: Bring,
        *,
        timeout_s: float,
        silent_s: float = SILENT_S,
    ) -> None:
        self._book = book
        self._models = models
        self._bring = bring
        self._timeout_s = timeout_s
        self._silent_s = silent_s
        self._asked_at = 0.0
        self._thread: _StagingThread | None = None
        self._command: FileCommand | None = None
        self.looked_at = time.monotonic()
        """Time of the last :meth:`look`, in monotonic seconds."""
        self.not_before = 0.0
        """Time of the next retry of a failed download, in monotonic seconds."""
        self._gone_since = 0.0

    def begin(self, job: RolloutJob, *reports: Report) -> None:
        """Replaces the current job by ``job``. :raises OSError: a disk error."""
        self.end_download()
        self._command = None
        self.not_before = 0.0
        self._gone_since = 0.0
        self.looked_at = time.monotonic()
        log.info("rollout %s: %s", job.id, ", ".join(part.model for part in job.parts) or job.why)
        self._book.put(job, *reports)

    def stop(self, state: State, why: str) -> None:
        """Ends the job with ``state``, after rolling back models that were switched."""
        job = self._book.job
        if job is None or job.is_over or job.step == "undoing":
            return
        self.end_download()
        self._undo(job, state, why)

    def end_download(self) -> None:
        """Cancels a running download; the part received is kept."""
        if self._thread is not None:
            self._thread.stop.set()
            self._thread.join()
            self._thread = None

    def look(self) -> bool:
        """Continues the job. :return: whether to call again soon. :raises OSError: a disk error."""
        now = time.monotonic()
        passed, self.looked_at = now - self.looked_at, now
        if self._book.job is None or self._book.job.is_over:
            return False
        job = self._book.spend(0.0 if self._book.job.waits_for_server else passed)
        if job is None:
            return False
        if job.spent_s > self._timeout_s and job.step != "undoing" and not self._is_being_switched:
            self.stop("TIMED_OUT", f"it was not over after {self._timeout_s:g} s")
            return True
        steps = {
            "waiting": self._wait,
            "downloading": self._download,
            "downloaded": self._hold,
            "switching": self._switch,
            "watching": self._watch,
            "undoing": self._roll_back,
        }
        return steps[job.step](job)

    @property
    def _is_waiting(self) -> bool:
        return self._command is not None

    @property
    def _is_being_switched(self) -> bool:
        return self._command is not None and self._models.is_node_running

    # Steps

    def _wait(self, job: RolloutJob) -> bool:
        if not job.may_download:
            return False
        self._enter(job, "downloading", _report(job, "download"))
        return True

    def _download(self, job: RolloutJob) -> bool:
        index = next((index for index, part in enumerate(job.parts) if part.digest is None), None)
        if index is None:
            self._enter(job, "downloaded", _report(job, "downloaded"))
            return True
        if self._thread is None:
            if time.monotonic() < self.not_before:
                return False
            self._thread = _StagingThread(self._models, self._bring, job.parts[index])
            self._thread.start()
            return True
        if self._thread.is_alive():
            return True
        done, self._thread = self._thread, None
        if isinstance(done.error, Unreachable):
            log.warning("rollout %s: %s", job.id, done.error)
            self.not_before = time.monotonic() + AGAIN_S
        elif done.error is not None:
            self._finish(job, "REJECTED" if isinstance(done.error, EdgeslmError) else "FAILED", done.why)
        elif done.bundle is not None:
            brought = done.is_new or job.parts[index].brought
            self._put_part(job, index, digest=done.bundle.digest, brought=brought)
        return True

    def _hold(self, job: RolloutJob) -> bool:
        if not job.may_update:
            return False
        self._enter(job, "switching", _report(job, "proceeding", "the node is asked to switch"))
        return True

    def _switch(self, job: RolloutJob) -> bool:
        for index, part in enumerate(job.parts):
            if part.asked and self._command is not None:
                return self._read_answer(job, index)
            # Asked by an earlier process: ask again; the node handles commands in order.
            if part.asked or self._models.digest(part.model) != part.digest:
                return self._ask(job, index)
        self._enter(job, "watching", _report(job, "proceeding", "on trial"))
        return True

    def _ask(self, job: RolloutJob, index: int) -> bool:
        part = job.parts[index]
        # If asked by an earlier process, the node may have ended too and lost the command.
        tries = part.tries + part.asked
        if not self._models.is_node_running:
            if part.asked:
                self._put_part(job, index, asked=False, tries=tries)
            return part.asked
        if part.tries >= MOST_TRIES:
            why = f"the node ended {MOST_TRIES} times while it tested the bundle, or didn't answer"
            self._undo(job, "FAILED", why)
            return True
        before = part.before or self._models.digest(part.model)
        self._put_part(job, index, before=before, asked=True, tries=tries)
        try:
            self._send_command("activate", part.model, part.digest)
        except EdgeslmError:  # another command waits for the node
            self._put_part(job, index, before=before, asked=part.asked)
        return True

    def _read_answer(self, job: RolloutJob, index: int) -> bool:
        part, said = job.parts[index], self._pending_answer()
        if said is None:
            if self._command is None:  # the node ended, or doesn't answer
                self._put_part(job, index, asked=False, tries=part.tries + 1)
            return True
        if said.get("later"):
            self._put_part(job, index, asked=False)
            return False
        self._put_part(job, index, asked=False)
        if "error" in said and self._models.digest(part.model) != part.digest:
            why = str(said["error"]).removeprefix(f"model {part.model}: ")
            why = f"model {part.model} was not changed: {why}"
            self._undo(self._book.job or job, "REJECTED", why)
        return True

    def _pending_answer(self) -> dict[str, Any] | None:
        """The node's answer to the pending command, or None. Drops the command if the node ended or timed
        out."""
        if self._command is None:
            return None
        said = self._models.heard(self._command)
        if said is not None:
            self._command = None
        elif not self._models.is_node_running or time.monotonic() - self._asked_at > self._silent_s:
            self._models.withdraw(self._command)
            self._command = None
        return said

    def _watch(self, job: RolloutJob) -> bool:
        standings = [self._models.standing(part.model, part.digest or "") for part in job.parts]
        for part, standing in zip(job.parts, standings, strict=True):
            if standing == "other":
                why = self._models.why(part.model, part.digest or "")
                if not why and self._models.is_node_running:
                    self._gone_since = self._gone_since or time.monotonic()
                    if time.monotonic() - self._gone_since < UNEXPLAINED_S:
                        return True
                why = why or "no reason given"
                self._undo(job, "FAILED", f"model {part.model} was taken back: {why}")
                return True
        if all(standing == "proved" for standing in standings):
            self._finish(job, "SUCCEEDED", "")
        return True

    def _roll_back(self, job: RolloutJob) -> bool:
        """Rolls back one model after the other."""
        if self._command is not None:
            command, said = self._command, self._pending_answer()
            if self._is_waiting:
                return True
            failed = said is not None and command.action == "rollback" and not said.get("later")
            error = said.get("error") if said is not None and failed else None
            for index, part in enumerate(job.parts):
                if part.model == command.model and error is not None:  # still roll back the others
                    why = _plain(f"{job.why}; model {command.model} can't be switched back: {error}")
                    self._put_part(job.model_copy(update={"why": why}), index, before=None, asked=False)
                elif part.model == command.model and part.asked:
                    self._put_part(job, index, asked=False)
            return True
        for index, part in enumerate(job.parts):
            if part.before is None or part.before == part.digest:
                continue
            if not self._models.is_node_running:
                if part.asked:
                    self._put_part(job, index, asked=False)
                    return True
                back = self._models.digest(part.model) != part.digest
                if not (back or self._models.roll_back(part.model)):
                    return False  # wait for the node
            elif part.asked:  # by an earlier process: an answer to this means that the node is done with that
                return self._try_command("activate", part.model, part.before)
            elif self._models.digest(part.model) == part.digest:
                return self._try_command("rollback", part.model)
        self._finish(job, job.end or "FAILED", job.why)
        return True

    def _try_command(
        self, action: Literal["activate", "rollback"], model: str, digest: str | None = None
    ) -> bool:
        with contextlib.suppress(EdgeslmError):  # another command waits for the node
            self._send_command(action, model, digest)
        return True

    def _send_command(self, action: Literal["activate", "rollback"], model: str, digest: str | None) -> None:
        self._command = self._models.command(action, model, digest)
        self._asked_at = time.monotonic()

    # Records

    def _undo(self, job: RolloutJob, end: State, why: str) -> None:
        changes = {"step": "undoing", "end": end, "why": _plain(why)}
        reports = (
            () if job.step in ("waiting", "downloading", "downloaded") else (_report(job, "proceeding", why),)
        )
        self._book.put(job.model_copy(update=changes), *reports)
        self._roll_back(self._book.job or job)

    def _enter(self, job: RolloutJob, step: Step, *reports: Report) -> None:
        log.info("rollout %s: %s", job.id, step)
        state: State = "QUEUED" if step == "waiting" else "IN_PROGRESS"
        self._book.put(job.model_copy(update={"step": step, "state": state}), *reports)

    def _put_part(self, job: RolloutJob, index: int, **changes: object) -> None:
        parts = list(job.parts)
        parts[index] = parts[index].model_copy(update=changes)
        self._book.put(job.model_copy(update={"parts": tuple(parts)}))

    def _finish(self, job: RolloutJob, state: State, why: str) -> None:
        job = job.model_copy(update={"state": state, "step": "done", "why": _plain(why), "end": None})
        log.log(
            logging.INFO if state == "SUCCEEDED" else logging.ERROR, "rollout %s: %s %s", job.id, state, why
        )
        self._book.put(job, *final_reports(job))
        if state != "SUCCEEDED":
            for part in job.parts:
                if part.brought and part.digest is not None:
                    self._models.forget(part.digest)


def final_reports(job: RolloutJob) -> tuple[Report, ...]:
    """Reports on a finished job; empty if the server removed or cancelled the job."""
    if job.state in ("REMOVED", "CANCELED"):
        return ()
    if job.state == "SUCCEEDED":
        return (_report(job, "closed", "SUCCEEDED", finished=True),)
    return (_report(job, "closed", f"{job.state}: {job.why}", finished=False),)


def _report(job: RolloutJob, execution: str, *details: str, finished: bool | None = None) -> Report:
    outcome = "none" if finished is None else "success" if finished else "failure"
    return Report.model_validate(
        {
            "action": job.id,
            "execution": execution,
            "finished": outcome,
            "details": tuple(map(_plain, details)),
            "at_ms": int(time.time() * 1000),
        }
    )


def _plain(why: str) -> str:
    return without_paths(why.partition("\n")[0]).rstrip(".")


class _StagingThread(threading.Thread):
    """Thread that stages one part and sets ``bundle`` or ``error``."""

    def __init__(self, models: RolloutModels | DistantModels, bring: Bring, part: Part) -> None:
        super().__init__(name="rollout-download", daemon=True)
        self.stop = threading.Event()
        self.bundle: Brought | None = None
        self.is_new = False
        self.error: Exception | None = None
        self._models = models
        self._bring = bring
        self._part = part

    @property
    def why(self) -> str:
        return (
            str(self.error) if isinstance(self.error, EdgeslmError | OSError) else type(self.error).__name__
        )

    def run(self) -> None:
        try:
            self.bundle, self.is_new = self._models.stage(self._bring, self._part, self.stop)
        except Exception as error:
            self.error = error
            log.debug("staging failed", exc_info=True)
