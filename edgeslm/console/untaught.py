"""What an untaught model at work says about messages: labels that it proposes, and how often it is right.

Its requests have the lowest priority.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from edgeslm.console.taught_task import TaughtTask
from edgeslm.messages import LEAST_PRIORITY, Request
from edgeslm.serving.fitted_bias import describe_bias
from edgeslm.serving.service import Service
from edgeslm.tasks.classify import Classify
from edgeslm.teaching.session import Row

log = logging.getLogger("edgeslm.console")

COMPARED: Final = 30
COMPARE_S: Final = 600.0
"""Most messages, and longest time, of the comparison with a head."""
REST: Final = 99
"""Pause after each message of the comparison, as a multiple of its time: others hardly ever wait for it."""
MOST_FAILURES: Final = 3
PAUSE_S: Final = 60.0
"""Pause of the proposals after as many failures in a row, or one of those in :data:`DOWN`."""
DOWN: Final = frozenset({"no_memory", "model_unavailable", "timeout", "busy"})
"""Errors that other messages would get, too."""


class UntaughtModel:
    """The untaught model of each task of ``service``, if its first stage has one."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def is_at_work(self, task: str) -> bool:
        bindings = self._service.deployment.bindings.get(task, ())
        return bool(bindings) and bindings[0].task.is_untaught

    def bias(self, task: str) -> str | None:
        """What the label bias says that was fitted to the task's corrections; None if there is none."""
        found = self._service.tasks.get(task)
        fitted = found.fitted if isinstance(found, Classify) else None
        return None if fitted is None else describe_bias(fitted)

    def is_wanted(self, one: TaughtTask) -> bool:
        """Whether a shown message could have a proposal. The guesses of a head are better."""
        is_new = one.session.accuracy is None and self.is_at_work(one.task)
        return is_new and time.monotonic() >= one.proposes_at and self._next(one) is not None

    @staticmethod
    def _next(one: TaughtTask) -> str | None:
        return next((text for text in one.session.unproposed if text not in one.unproposable), None)

    async def propose(self, one: TaughtTask) -> None:
        """Proposes a label for each chosen message without a guess, in their order. Only this node is asked:
        messages that are labelled aren't passed on to other nodes or servers.

        The caller sets ``is_proposing``, which ends with this."""
        try:
            await self._propose(one)
        finally:
            one.is_proposing = False

    async def _propose(self, one: TaughtTask) -> None:
        failures = 0
        while self.is_wanted(one) and (text := self._next(one)) is not None:
            result = await self._service.scheduler.submit(_request(one.task, text))
            found = result.result or {}
            if found.get("label") in one.session.lesson.labels and found.get("taught") is False:
                failures = 0
                one.session.propose(text, found["label"], found["confidence"], str(found["stage"]))
                continue
            one.unproposable.add(text)
            failures += 1
            code = "no label" if result.error is None else result.error.code
            if code in DOWN or failures >= MOST_FAILURES:
                one.proposes_at = time.monotonic() + PAUSE_S
                one.unproposable.clear()
                log.warning("task %s: no proposals for %g s (%s)", one.task, PAUSE_S, code)

    async def compare(
        self, one: TaughtTask, rows: Sequence[Row], write: Callable[[TaughtTask], Awaitable[None]]
    ) -> None:
        """Asks about the last of ``rows``, and notes in the record how many labels are the same.

        :param write: stores the record, after each row.
        """
        right = asked = 0
        ends_at = time.monotonic() + COMPARE_S
        for row in rows[-COMPARED:]:
            began = time.monotonic()
            result = await self._service.submit(_request(one.task, row["text"]))
            if not self.is_at_work(one.task) or began > ends_at:
                return
            if result.error is None and result.result is not None:
                asked += 1
                right += result.result.get("label") == row["label"]
                one.record["compared"] = {"right": right, "asked": asked, "is_head": False}
                await write(one)
            await asyncio.sleep(REST * (time.monotonic() - began))


def _request(task: str, text: str) -> Request:
    return Request(task, text, "teach", "", priority=LEAST_PRIORITY)
