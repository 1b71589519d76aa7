"""Service: requests in, results out, without a bus; a deployment behind the scheduler.

The daemon puts a bus in front of it, ``edgeslm try`` a terminal. Another configuration can take over while
requests come in: each is served by the one or the other, none is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from edgeslm.config.loader import Config
from edgeslm.errors import NO_ANSWER, RequestError, UnknownTask
from edgeslm.messages import Attempt, Request, Result
from edgeslm.serving.builder import build_deployment
from edgeslm.serving.collections import Collections
from edgeslm.serving.deployment import Deployment
from edgeslm.serving.escalation import Escalation, OtherNodes
from edgeslm.serving.model_pool import MakeProcess, ModelPool
from edgeslm.serving.quotas import ClientQuotas
from edgeslm.serving.scheduler import OnChunk, Scheduler, error_result
from edgeslm.tasks import Task

log = logging.getLogger("edgeslm.serving")

_NO_ANSWER = frozenset(error.code for error in NO_ANSWER)


class SwitchCheck(Protocol):
    """Looks at a deployment that is to take over; what it raises keeps the old one at work."""

    async def __call__(self, old: Deployment, new: Deployment, /) -> None: ...


class Service:
    """What a configuration can do, once :meth:`start` has loaded its models.

    :param nodes: those that tasks escalate to; without any what was found here stands.
    :param make_process: see :func:`build_deployment`, which says what is raised too.
    """

    def __init__(
        self,
        config: Config,
        *,
        nodes: OtherNodes | None = None,
        make_process: MakeProcess | None = None,
    ) -> None:
        self._make_process = make_process
        self._now = build_deployment(config, make_process=make_process)
        self._others: set[Deployment] = set()
        """One that is loading, or that still answers what it began."""
        self._replacing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        limits = config.limits
        self.escalation = Escalation(limits.request_timeout_s, nodes)
        self.scheduler = Scheduler(
            self._run,
            limit=_most_requests(config),
            timeout_s=limits.request_timeout_s,
            slots=_slots(config),
            quotas=ClientQuotas(
                limits.sender_queue or max(1, limits.queue // 2),
                limits.sender_tokens_per_min,
                nameless_queue=limits.sender_queue,
            ),
        )

    @property
    def models(self) -> ModelPool:
        return self._now.models

    @property
    def library(self) -> Collections:
        return self._now.library

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What checks requests and describes results, by the name of the task."""
        return self._now.tasks

    async def start(self) -> None:
        """
        :raises BundleError: a bundle isn't signed though it must be, or an engine refuses it.
        :raises KnowledgeError: a collection can't be used.
        """
        await self._now.start()

    async def start_over(self, config: Config) -> None:
        """After a start that failed: another configuration, from the beginning. :raises EdgeslmError: why."""
        await self._now.stop()
        self._now = build_deployment(config, make_process=self._make_process)
        await self._now.start()

    async def stop(self) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        for other in list(self._others):
            await self._end(other)
        await self._now.stop()
        await self.escalation.stop()

    @property
    def deployment(self) -> Deployment:
        """What is at work now."""
        return self._now

    async def replace(self, config: Config, *, check: SwitchCheck | None = None) -> None:
        """Puts another configuration to work, between two requests. What is being run goes on to its end.

        Its models are loaded beside those at work, which both have if they are the same in both. If this
        fails, the old one is at work as before. Changes that would make this another node (its name, broker,
        limits and state folder) are not looked at.

        :param check: asked when the new one is loaded.
        :raises BundleError: as :meth:`start`. :raises ConfigError: as the constructor.
        :raises ModelUnavailable: an engine ends while it loads.
        :raises KnowledgeError: a collection can't be used.
        """
        async with self._replacing:
            old = self._now
            new = build_deployment(config, running=old, make_process=self._make_process)
            self._others.add(new)
            try:
                await new.start_models()
                if check is not None:
                    await check(old, new)
                if new.library is old.library:
                    self._now = new
                else:
                    await self._take_turns(old, new)
            except BaseException:
                await self._end(new)
                raise
            self._others.discard(new)
            self._others.add(old)
            self.scheduler.resize(limit=_most_requests(config), slots=_slots(config))
            new.library.use(new.models)
            retiring = asyncio.create_task(self._retire(old))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def _take_turns(self, old: Deployment, new: Deployment) -> None:
        """Two processes must not write to one collection: requests wait while the one follows the other."""
        self.scheduler.pause()
        try:
            await old.until_idle()
            await old.library.stop()
            try:
                await new.library.start()
            except BaseException:
                await new.library.stop()
                await old.library.start()
                raise
            self._now = new
        finally:
            self.scheduler.resume()

    async def _retire(self, old: Deployment) -> None:
        await old.until_idle()
        await self._end(old)

    async def _end(self, deployment: Deployment) -> None:
        self._others.discard(deployment)
        await deployment.stop([self._now, *self._others])

    async def submit(
        self, request: Request, on_chunk: OnChunk | None = None, attempt: Attempt | None = None
    ) -> Result:
        """Exactly one result; what can be refused without the engine is refused before the queue."""
        asked = self._now
        task = asked.tasks.get(request.task)
        try:
            if task is None:
                names = ", ".join(sorted(asked.tasks))
                raise UnknownTask(f"there is no task {request.task!r} here; there are: {names}")
            if attempt is not None:
                attempt.compute()
            task.check(request)
        except RequestError as error:
            return error_result(request, error)
        finally:
            if attempt is not None:
                attempt.wait()
        result = await self.scheduler.submit(request, on_chunk, attempt)
        target = asked.targets[request.task]
        if target is not None and self.escalation.is_wanted(result):
            result = await self.escalation.ask(target, request, result)
        if result.error is not None and result.error.code in _NO_ANSWER:
            return await _without_model(task, request, result, result.error.code)
        return result

    async def _run(self, request: Request, on_chunk: OnChunk | None, attempt: Attempt | None) -> Result:
        return await self._now.run(request, on_chunk, attempt)

    def cancel(self, matches: Callable[[Request], bool]) -> int:
        """Cancels every request that ``matches``, and says how many those were."""
        return self.scheduler.cancel(matches) + self.escalation.cancel(matches)


async def _without_model(task: Task, request: Request, failed: Result, code: str) -> Result:
    """What the task can tell all the same, or ``failed``."""
    try:
        told = await asyncio.to_thread(task.without_model, request)
    except Exception as error:  # which is what failed before, perhaps; no text goes to logs
        log.error("request %s of task %s failed: %s", request.id, request.task, type(error).__name__)
        told = None
    if told is None:
        return failed
    log.warning("task %s: told without its model (%s)", request.task, code)
    return replace(failed, status="ok", result=told, error=None)


def _most_requests(config: Config) -> int:
    """The messages held at a time are bounded before; one that several routes read is as many requests."""
    limits = config.limits
    return (limits.queue + limits.qos0_queue) * max(1, len(config.routes))


def _slots(config: Config) -> int:
    """Requests that run at a time: as many as the model with most workers can."""
    return max((model.workers for model in config.models.values()), default=1)
