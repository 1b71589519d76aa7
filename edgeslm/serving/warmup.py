"""Warm-up: what would cost the first requests of a task something is done while the node is idle.

Prompts are read in advance, and decoders laid out for this machine (``prepare``). Begun anew when other
models serve.
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
from edgeslm.serving.prepare import Prepacker
from edgeslm.serving.scheduler import OnChunk
from edgeslm.serving.service import Service
from edgeslm.telemetry.extension import Announces, Extension

log = logging.getLogger("edgeslm.serving")

WARM_AFTER_S: Final = 0.5
"""Without work, before what prompts begin with is read in advance."""


_ANY_TEXT: Final = "."
"""What stands in the place of a message: what is read of the prompt before it is what counts."""


class _WarmError(Exception):
    """Ends a task that is only to have its prompt read."""


async def warm(deployment: Deployment) -> None:
    """Has decoders read what all prompts of a task begin with, so that its first request doesn't wait for it.

    Any request is more urgent, and goes before it.
    """
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
        return  # the grammar is made of the message, and a cache serves one grammar

    async def ask(call: Call, on_chunk: OnChunk | None = None) -> Output:
        if isinstance(call, Generate) and call.sampling.temperature > 0:
            raise _WarmError  # its cache isn't kept
        if isinstance(call, Generate | Score):
            call = replace(call, only_read=True)
        await deployment.models.ask(model, binding.through_adapter(call), priority=LEAST_PRIORITY)
        raise _WarmError

    options = {"context": _ANY_TEXT} if is_answer else {}
    request = Request(task=name, input=_ANY_TEXT, id=name, reply_to="", options=options)
    with contextlib.suppress(_WarmError, RequestError, TimeoutError):
        # What hangs is ended as a request would be.
        async with asyncio.timeout(deployment.config.limits.request_timeout_s):
            await binding.task.run(request, ask, None)


class WarmUp(Extension):
    """While the node is idle; an engine that runs on what was prepared is announced."""

    def __init__(self, service: Service, presence: Announces) -> None:
        self._service = service
        self._presence = presence
        self._prepacker: Prepacker | None = None

    @property
    def alerts(self) -> Sequence[str]:
        """Which models say other things here than on the build machine."""
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
        """For how long the node has had nothing to do, though it was online."""
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
                self._prepacker = Prepacker(self._service.models, config.state_dir, self)
                await self._prepacker.run()
        except Exception as error:  # it serves as well without
            log.error("what was to be made ready is not: %s", type(error).__name__)
            log.debug("making ready", exc_info=True)

    async def renewed(self) -> None:
        """An engine runs on what was prepared."""
        self._presence.announce_info()
        await warm(self._service.deployment)
