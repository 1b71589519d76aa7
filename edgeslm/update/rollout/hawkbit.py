"""hawkBit client: polls the server, runs its deployments and cancellations, and reports progress.

The job's state is on disk (:class:`Book`), so this process may end at any time. Blocking. The client is a
separate process, since the node doesn't connect to the internet and has no memory to spare.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edgeslm import __version__
from edgeslm.config.loader import Config
from edgeslm.config.sections import Rollouts
from edgeslm.errors import RolloutError
from edgeslm.hardware.board import board_name
from edgeslm.update.downloads import ServerLogin
from edgeslm.update.rollout.assignment import parts_of
from edgeslm.update.rollout.ddi import (
    CancelAction,
    DeploymentBase,
    Poll,
    action_of,
    encode_attributes,
    encode_confirmation,
    encode_feedback,
    parse,
    same_server,
)
from edgeslm.update.rollout.distant import DistantModels, is_distant
from edgeslm.update.rollout.jobs import Book, Part, Report, RolloutJob
from edgeslm.update.rollout.models import Brought, RolloutModels
from edgeslm.update.rollout.server import Server, ServerRefused
from edgeslm.update.rollout.state_machine import StateMachine, final_reports

log = logging.getLogger("edgeslm.update")

LOOK_EVERY_S: Final = 0.5
"""Pause between checks of a running job."""
POLL_S: Final = 300.0
"""Pause between polls if neither the server nor the configuration sets a pause."""
LEAST_POLL_S: Final = 1.0
LONGEST_POLL_S: Final = 86_400.0
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
"""Upper limit of the exponential backoff after failed polls."""

UNTOUCHED: Final = ("waiting", "downloading", "downloaded")
"""Steps of a job before any model is changed."""


class Hawkbit:
    """
    :raises RolloutError: the configuration has no section ``rollouts``, or names files that can't be read.
    """

    def __init__(self, config: Config) -> None:
        if config.rollouts is None:
            raise RolloutError("the configuration has no section rollouts, which names the server")
        self._config = config
        self._rollouts: Rollouts = config.rollouts
        self._server = Server(config.rollouts, config.node)
        self.models = DistantModels(config) if is_distant(config) else RolloutModels(config)
        self.book = Book(self.models.store.folder, config.node, "hawkbit")
        self.work = StateMachine(self.book, self.models, self.bring, timeout_s=config.rollouts.timeout_s)
        self.next_poll = 0.0
        """Time of the next poll, in monotonic seconds."""
        self.failures = 0
        """Number of failed polls in a row."""
        self._canceled: str | None = None
        """Id of a cancelled action; the cancellation is confirmed once the action is undone."""

    def run(self, stop: threading.Event) -> None:
        """Runs the client until ``stop`` is set."""
        self.resume()
        log.info("asking %s", self._server.base)
        while not stop.wait(self.turn()):
            pass
        self.work.end_download()

    def turn(self) -> float:
        """Continues the job, polls the server if a poll is due, and sends reports. :return: seconds until the
        next call."""
        busy = True
        try:
            busy = self.work.look()
            self._answer_cancellation()
            if time.monotonic() >= self.next_poll:
                self._poll()
                busy = True
            self._deliver()
        except RolloutError as error:
            self.failures += 1
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10))
            self.next_poll = time.monotonic() + pause * random.uniform(0.5, 1.0)
            log.warning("%s (asked again in %.0f s)", error, self.next_poll - time.monotonic())
        except OSError as error:  # a full disk: no step without its record
            log.error("the rollout is interrupted: %s", error)
            self.next_poll = max(self.next_poll, time.monotonic() + FIRST_PAUSE_S)
            return FIRST_PAUSE_S
        left = max(0.0, self.next_poll - time.monotonic())
        return min(left, LOOK_EVERY_S if busy else 10 * LOOK_EVERY_S)

    # The server

    def _poll(self) -> None:
        poll = parse(self._server.read(), Poll)
        self.failures = 0
        every = self._rollouts.poll_s or poll.sleep_s or POLL_S
        self.next_poll = time.monotonic() + min(LONGEST_POLL_S, max(LEAST_POLL_S, every))
        self._tell_attributes(asked=poll.links.config_data is not None)
        if poll.links.cancel is not None:
            self._cancel(parse(self._server.read(poll.links.cancel.href), CancelAction).to_stop.stop_id)
        elif poll.links.deployment is not None:
            self._offered(poll.links.deployment.href)
        else:
            self._nothing_offered()
        if poll.links.confirmation is not None and self._rollouts.confirm:
            action = action_of(poll.links.confirmation.href)
            self._server.tell(
                f"confirmationBase/{action}/feedback",
                encode_confirmation(("the node's configuration says so",)),
            )

    def _deliver(self) -> None:
        """Sends pending reports in order; reports that the server refuses are dropped."""
        while self.book.record.reports and not self.failures:
            report = self.book.record.reports[0]
            body = encode_feedback(
                report.action, report.execution, report.finished, report.details, report.at_ms
            )
            try:
                self._server.tell(f"{report.about}/{report.action}/feedback", body)
            except ServerRefused as error:
                log.warning("%s", error)
            self.book.drop_report(report)

    def _tell_attributes(self, *, asked: bool) -> None:
        attributes = self.attributes()
        told = hashlib.sha256(repr(sorted(attributes.items())).encode()).hexdigest()
        if asked or told != self.book.record.told:
            self._server.tell("configData", encode_attributes(attributes), "PUT")
            self.book.note_told(told)

    def attributes(self) -> Mapping[str, str]:
        """Attributes of this node. The goosebit server reads the installed version from ``sw_version``;
        without ``sw_version``, goosebit assumes that nothing is installed."""
        config = self._config
        found = {"edgeslm.version": __version__, "edgeslm.node": config.node}
        if board := board_name(Path("/")):
            found["edgeslm.board"] = board
        if config.pool is not None:
            found["edgeslm.pool"] = config.pool.name
        if version := self.book.record.version:
            found["sw_version"] = version
        for model in config.models:
            found[f"edgeslm.model.{model}"] = self.models.digest(model) or "missing"
        return {**found, **self._rollouts.attributes}

    # Deployments

    def _offered(self, href: str) -> None:
        action, job = action_of(href), self.book.job
        if job is not None and not job.is_over:
            if job.id == action:
                if job.step in UNTOUCHED:
                    self._update_permissions(job, parse(self._server.read(href), DeploymentBase))
                return
            if job.step not in UNTOUCHED:
                return  # finish the running job first
            self.work.stop("REMOVED", "the server offers something else")
        elif job is not None and job.id == action and job.state not in ("REMOVED", "CANCELED"):
            if not any(report.action == action for report in self.book.record.reports):
                self.book.put(job, *final_reports(job))  # the final report was lost, or the server asks again
            return
        self._begin(action, self._server.read(href))

    def _begin(self, action: str, said: bytes) -> None:
        try:
            deployment = parse(said, DeploymentBase)
            if deployment.id != action:
                raise RolloutError(f"the server offers action {action} and describes action {deployment.id}")
            budget = self._config.updates.budget_bytes
            parts = parts_of(deployment, self._rollouts, self._config.models, budget)
        except RolloutError as error:  # report it, or the server waits for ever
            refused = RolloutJob(id=action, state="REJECTED", step="done", why=str(error))
            log.error("rollout %s: REJECTED: %s", action, error)
            self.work.begin(refused, *final_reports(refused))
            return
        job = RolloutJob(
            id=action,
            version=deployment.version,
            parts=parts,
            may_download=deployment.may_download,
            may_update=deployment.may_update,
        )
        self.work.begin(job, _report_of(action, "scheduled", "QUEUED"))

    def _update_permissions(self, job: RolloutJob, deployment: DeploymentBase) -> None:
        """Updates whether the job may download and install, for example after a maintenance window opened."""
        allowed = (deployment.may_download, deployment.may_update)
        if (job.may_download, job.may_update) != allowed:
            changes = dict(zip(("may_download", "may_update"), allowed, strict=True))
            self.book.put(job.model_copy(update=changes))

    def _nothing_offered(self) -> None:
        job = self.book.job
        if job is None or job.is_over or job.step not in UNTOUCHED:
            return
        if job.step == "downloaded" and not job.may_update:  # a download-only deployment
            self.book.put(job.model_copy(update={"state": "SUCCEEDED", "step": "done"}))
        else:
            self.work.stop("REMOVED", "the server offers it no more")

    # Cancellation

    def _cancel(self, action: str) -> None:
        job = self.book.job
        if any(one.action == action and one.about == "cancelAction" for one in self.book.record.reports):
            return
        if job is None or job.id != action:
            self._confirm(action, "nothing of it is here")
        elif job.state == "SUCCEEDED":
            self.book.put(job, _report_of(action, "rejected", "it is done already", about="cancelAction"))
        elif job.is_over:
            self._confirm(action, job.state)
        else:
            self._canceled = action
            self.work.stop("CANCELED", "the server took it back")
            self._answer_cancellation()

    def _answer_cancellation(self) -> None:
        job = self.book.job
        if self._canceled is not None and (job is None or job.id != self._canceled or job.is_over):
            self._confirm(self._canceled, job.state if job is not None else "CANCELED")
            self._canceled = None

    def _confirm(self, action: str, why: str) -> None:
        self.book.put(
            self.book.job, _report_of(action, "closed", why, about="cancelAction", finished="success")
        )

    # This device

    def resume(self) -> None:
        """Reports that a job from before a restart continues. :raises OSError: the report can't be
        recorded."""
        job = self.book.job
        told = any(one.execution == "resumed" for one in self.book.record.reports)
        if job is not None and not job.is_over and not told:
            self.book.put(job, _report_of(job.id, "resumed", f"{job.state}, {job.step}"))

    def bring(self, part: Part, stop: threading.Event) -> Brought:
        """Downloads a part's bundle. The credentials are sent only to the rollout server.

        :raises BundleError: the download failed, or the bundle is refused.
        """
        ours = same_server(part.url, self._server.base)
        login = self._server.login if ours else ServerLogin(ca_file=self._rollouts.ca_file)
        parts = urlsplit(self._server.base)
        staging = self.models.staging(
            stop,
            within=(f"{parts.scheme}://{parts.netloc}/", *self._rollouts.downloads),
            login=login,
            allow_http=self._rollouts.allow_http,
        )
        return self.models.bring(staging, part, stop)


def _report_of(action: str, execution: str, why: str, **more: str) -> Report:
    return Report.model_validate(
        {
            "action": action,
            "execution": execution,
            "details": (why,),
            "at_ms": int(time.time() * 1000),
            **more,
        }
    )
