"""Service: queues requests and answers them with the current deployment, without MQTT.

The daemon connects the service to a broker, and ``edgeslm try`` connects it to a terminal. If the
configuration is reloaded while requests arrive, each request is served by the old or the new deployment, and
none is lost.
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
from edgeslm.serving.remote import RemoteTarget
from edgeslm.serving.scheduler import OnChunk, Scheduler, error_result
from edgeslm.tasks import Task

log = logging.getLogger("edgeslm.serving")

_NO_ANSWER = frozenset(error.code for error in NO_ANSWER)


class SwitchCheck(Protocol):
    """Checks a new deployment before it replaces the old one; an exception keeps the old deployment."""

    async def __call__(self, old: Deployment, new: Deployment, /) -> None: ...


class Service:
    """Serves one configuration, once :meth:`start` has loaded its models.

    :param nodes: sends requests to other nodes for escalation; with None, none is sent to another node.
    :param make_process: see :func:`build_deployment`. :raises ConfigError: see :func:`build_deployment`.
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
        """Deployments that are loading, or finishing their last requests."""
        self._replacing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        limits = config.limits
        self._quotas = ClientQuotas(
            limits.sender_queue or max(1, limits.queue // 2),
            limits.sender_tokens_per_min,
            nameless_queue=limits.sender_queue,
        )
        self.escalation = Escalation(limits.request_timeout_s, nodes)
        self.escalation.servers.on_usage = self._charge
        self.scheduler = Scheduler(
            self._run,
            limit=_most_requests(config),
            timeout_s=limits.request_timeout_s,
            slots=_slots(config),
            quotas=self._quotas,
        )

    @property
    def models(self) -> ModelPool:
        return self._now.models

    @property
    def library(self) -> Collections:
        return self._now.library

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Task name -> the first stage's :class:`Task`, which checks requests and describes results."""
        return self._now.tasks

    async def start(self) -> None:
        """:raises BundleError: a required signature is missing, or an engine refuses a bundle.
        :raises KnowledgeError: a collection can't be used.
        """
        await self._now.start()

    async def start_over(self, config: Config) -> None:
        """Starts another configuration after a failed start.

        :raises EdgeslmError: the configuration can't be started; the error's text gives the reason.
        """
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
        """The current deployment."""
        return self._now

    async def replace(self, config: Config, *, check: SwitchCheck | None = None) -> None:
        """Switches to another configuration between two requests; running requests finish on the old one.

        New models are loaded next to the old ones; identical models are shared. On failure the old deployment
        stays in use. Changes of the name, broker, limits or state folder aren't applied; they need a restart.

        :param check: called once the new models are loaded, before the switch.
        :raises BundleError: see :meth:`start`.
        :raises ConfigError: see :func:`build_deployment`.
        :raises ModelUnavailable: an engine exits while loading.
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
                    await self._switch_collections(old, new)
            except BaseException:
                await self._end(new)
                raise
            self._others.discard(new)
            self._others.add(old)
            self.scheduler.resize(limit=_most_requests(config), slots=_slots(config))
            new.library.use(new.models)
            named = {target.server for target in new.targets.values() if isinstance(target, RemoteTarget)}
            self.escalation.servers.use_only(named)
            retiring = asyncio.create_task(self._retire(old))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def _switch_collections(self, old: Deployment, new: Deployment) -> None:
        """Replaces the knowledge process. Requests wait until the new process runs, since two processes must
        not write to the same collection."""
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
        """Returns exactly one result; invalid requests are rejected before they are queued."""
        asked = self._now
        task = asked.task_for(request)
        try:
            if task is None:
                names = ", ".join(
                    sorted({**asked.tasks, **(asked.direct_tasks if request.is_direct else {})})
                )
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
        target = asked.targets.get(request.task)
        if target is not None and self.escalation.is_wanted(result):
            result = await self.escalation.ask(target, request, result)
        if result.error is not None and result.error.code in _NO_ANSWER:
            return await _without_model(task, request, result, result.error.code)
        return result

    def _charge(self, request: Request, usage: Mapping[str, int]) -> None:
        """Counts the tokens of another node or server for the sender's quota."""
        if request.sender is not None:
            self._quotas.charge(request.sender, usage)

    async def _run(self, request: Request, on_chunk: OnChunk | None, attempt: Attempt | None) -> Result:
        return await self._now.run(request, on_chunk, attempt)

    def cancel(self, matches: Callable[[Request], bool]) -> int:
        """Cancels all requests that match.

        :return: the number of these requests.
        """
        return self.scheduler.cancel(matches) + self.escalation.cancel(matches)


async def _without_model(task: Task, request: Request, failed: Result, code: str) -> Result:
    """The result that the task can give without its model; if there is none, the error result ``failed``."""
    try:
        told = await asyncio.to_thread(task.without_model, request)
    except Exception as error:  # possibly the earlier cause; no text is logged
        log.error("request %s of task %s failed: %s", request.id, request.task, type(error).__name__)
        told = None
    if told is None:
        return failed
    log.warning("task %s: answered without its model (%s)", request.task, code)
    return replace(failed, status="ok", result=told, error=None)


def _most_requests(config: Config) -> int:
    """Maximum number of waiting requests. ``edgeslm.node.in_flight`` limits the number of messages in flight,
    but a message that several routes read becomes several requests."""
    limits = config.limits
    return (limits.queue + limits.qos0_queue) * max(1, len(config.routes))


def _slots(config: Config) -> int:
    """Number of requests that may run at a time, which is the number of workers of the largest team."""
    return max((model.workers for model in config.models.values()), default=1)
