"""Warm-up: prepares models while the node is idle, so that first requests are fast.

The warm-up prefills prompt prefixes, then prepacks decoders (``prepare``). The warm-up starts again after the
configuration was reloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from edgeslm.config.loader import Config
from edgeslm.engine.calls import Call, Generate, Output, Score
from edgeslm.errors import RequestError
from edgeslm.messages import LEAST_PRIORITY, Request
from edgeslm.serving.deployment import Deployment, StageBinding
from edgeslm.serving.prepare import QUIET, Prepacker, QuietTimes
from edgeslm.serving.scheduler import OnChunk
from edgeslm.serving.service import Service
from edgeslm.telemetry.extension import Announces, Extension

log = logging.getLogger("edgeslm.serving")

WARM_AFTER_S: Final = 0.5
"""Seconds that the node must be idle before prompt prefixes are prefilled."""


_ANY_TEXT: Final = "."
"""Placeholder for the message, since only the prompt before the message matters."""


class _WarmError(Exception):
    """Raised to end a task after its prompt was prefilled."""


async def warm(deployment: Deployment) -> None:
    """Prefills the prompt prefix of each task in its decoders, at the lowest priority, so that the first
    request doesn't have to wait."""
    models = deployment.models
    for name, bindings in deployment.bindings.items():
        for binding in bindings:
            if binding.model is None or not models.is_loaded(binding.model):
                continue
            if models.bundle(binding.model).manifest.model_kind == "decoder":
                await _warm(deployment, name, binding, binding.model)


async def _warm(deployment: Deployment, name: str, binding: StageBinding, model: str) -> None:
    section, is_answer = binding.task.section, binding.task.kind == "answer"
    if section.verbatim or (is_answer and section.mode == "quote"):
        return  # the grammar depends on the message, and a cache fits one grammar

    async def ask(call: Call, on_chunk: OnChunk | None = None) -> Output:
        if isinstance(call, Generate) and call.sampling.temperature > 0:
            raise _WarmError  # caches of sampled calls aren't kept
        if isinstance(call, Generate | Score):
            call = replace(call, only_read=True)
        await deployment.models.ask(model, binding.through_adapter(call), priority=LEAST_PRIORITY)
        raise _WarmError

    options = {"context": _ANY_TEXT} if is_answer else {}
    request = Request(task=name, input=_ANY_TEXT, id=name, reply_to="", options=options)
    with contextlib.suppress(_WarmError, RequestError, TimeoutError):
        # A hang ends as in a request.
        async with asyncio.timeout(deployment.config.limits.request_timeout_s):
            await binding.task.run(request, ask, None)


class WarmUp(Extension):
    """Runs the warm-up while the node is idle; publishes the node's info when an engine uses prepacked
    weights."""

    def __init__(self, service: Service, presence: Announces, quiet: QuietTimes = QUIET) -> None:
        self._quiet = quiet
        self._service = service
        self._presence = presence
        self._prepacker: Prepacker | None = None

    @property
    def alerts(self) -> Sequence[str]:
        """Sentences about models that failed the self-test."""
        return () if self._prepacker is None else self._prepacker.problems

    async def start(self) -> None:
        self._begin()

    def take_up(self, config: Config) -> None:
        self._begin()

    def close(self) -> None:
        self._end_work()

    def _begin(self) -> None:
        self.close()
        self._work = asyncio.create_task(self._run())

    def idle_s(self) -> float:
        """Seconds for which the node has been online and without work."""
        scheduler = self._service.scheduler
        has_work = self._presence.state != "online" or scheduler.waiting or scheduler.in_flight
        return 0.0 if has_work else time.monotonic() - scheduler.moved_at

    async def _run(self) -> None:
        while self.idle_s() < WARM_AFTER_S:
            await asyncio.sleep(WARM_AFTER_S)
        config = self._service.deployment.config
        try:
            await warm(self._service.deployment)
            if config.prepare == "auto":
                self._prepacker = Prepacker(self._service.models, config.state_dir, self, self._quiet)
                await self._prepacker.run()
        except Exception as error:  # the node works without it
            log.error("warm-up failed: %s", type(error).__name__)
            log.debug("warm-up", exc_info=True)

    async def renewed(self) -> None:
        """Called after an engine was restarted with prepacked weights."""
        self._presence.announce_info()
        await warm(self._service.deployment)
