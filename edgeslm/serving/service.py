"""Service: requests in, results out, without a bus; a deployment behind the scheduler.

The daemon puts a bus in front of it, ``edgeslm try`` a terminal. Another configuration can take over while
requests come in: each is served by the one or the other, none is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import Config
from edgeslm.errors import NO_ANSWER, RequestError, UnknownTask
from edgeslm.knowledge.service.process import KnowledgeProcess
from edgeslm.messages import Attempt, Request, Result
from edgeslm.serving.collections import Collections, MakeKnowledge
from edgeslm.serving.deployment import Deployment
from edgeslm.serving.escalation import Escalation
from edgeslm.serving.model_pool import MakeProcess, ModelPool
from edgeslm.serving.quotas import ClientQuotas
from edgeslm.serving.scheduler import OnChunk, Scheduler, error_result
from edgeslm.tasks import Task
from edgeslm.telemetry.drift import DriftWatch

log = logging.getLogger("edgeslm.serving")

_NO_ANSWER = frozenset(error.code for error in NO_ANSWER)

BeforeSwitch = Callable[[Deployment, Deployment], Awaitable[None]]


class Service:
    """What a configuration can do, once :meth:`start` has loaded its models.

    :raises BundleError: a bundle can't be read.
    :raises ConfigError: tasks and bundles don't fit together.
    """

    def __init__(
        self,
        config: Config,
        *,
        make_process: MakeProcess | None = None,
        make_knowledge: MakeKnowledge = KnowledgeProcess,
    ) -> None:
        self._make_process = make_process
        self._make_knowledge = make_knowledge
        self._now = Deployment(config, make_process=make_process, make_knowledge=make_knowledge)
        self._others: set[Deployment] = set()
        """One that is loading, or that still answers what it began."""
        self._replacing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        limits = config.limits
        self.escalation = Escalation(limits.request_timeout_s)
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
    def config(self) -> Config:
        """That of what is at work now."""
        return self._now.config

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

    @property
    def watches(self) -> Mapping[str, DriftWatch]:
        return self._now.watches

    async def start(self) -> None:
        """
        :raises BundleError: a bundle isn't signed though it must be, or an engine refuses it.
        :raises KnowledgeError: a collection can't be used.
        """
        await self._now.start()

    async def start_over(self, config: Config) -> None:
        """After a start that failed: another configuration, from the beginning. :raises EdgeslmError: why."""
        await self._now.stop()
        self._now = Deployment(config, make_process=self._make_process, make_knowledge=self._make_knowledge)
        await self._now.start()

    async def stop(self) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        for other in list(self._others):
            await self._end(other)
        await self._now.stop()

    @property
    def pids(self) -> dict[str, int]:
        """The processes of this node beside its own, by what they are for."""
        return self._now.pids

    async def warm(self) -> None:
        """Has decoders read what all prompts of a task begin with, so that its first request needn't wait for
        that. Any request is more urgent, and goes before it."""
        await self._now.warm()

    async def replace(self, config: Config, *, before: BeforeSwitch | None = None) -> None:
        """Puts another configuration to work, between two requests. What is being run goes on to its end.

        Its models are loaded beside those at work, which both have if they are the same in both. If this
        fails, the old one is at work as before. Changes that would make this another node (its name, broker,
        limits and state folder) are not looked at.

        :param before: called with the old and the new one when the new one is loaded; what it raises keeps
            the old one at work.
        :raises BundleError: as :meth:`start`. :raises ConfigError: as the constructor.
        :raises ModelUnavailable: an engine ends while it loads.
        :raises KnowledgeError: a collection can't be used.
        """
        async with self._replacing:
            old = self._now
            new = Deployment(
                config, running=old, make_process=self._make_process, make_knowledge=self._make_knowledge
            )
            self._others.add(new)
            try:
                await new.start_models()
                if before is not None:
                    await before(old, new)
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
            new.library.models = new.models
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
        serving = self._now
        with serving.in_use():
            return await serving.run(request, on_chunk, attempt)

    def cancel(self, matches: Callable[[Request], bool]) -> int:
        """Cancels every request that ``matches``, and says how many those were."""
        return self.scheduler.cancel(matches) + self.escalation.cancel(matches)

    def adapter_of(self, task: str) -> Bundle | None:
        """The adapter that the first stage's calls go through."""
        return self._now.adapter_of(task)

    def model_of(self, task: str) -> str | None:
        """Name of the model that serves a task's first stage, if one does."""
        return self._now.model_of(task)

    def tasks_of(self, model: str) -> list[str]:
        """The tasks in one of whose stages a model has a part."""
        return self._now.tasks_of(model)

    def stages_of(self, task: str) -> tuple[str, ...]:
        return self._now.stages_of(task)


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
