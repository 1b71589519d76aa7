"""Deployment: the bundles, models, tasks and stages of one configuration.

A node has one deployment at a time. A new deployment replaces the old deployment between two requests. The
two share identical parts: loaded engines, the knowledge process, drift statistics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.manifest import Bundle, short_digest
from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import Config
from edgeslm.engine.calls import Call, FindSpans, Generate, Output, Score
from edgeslm.errors import InternalError, ModelUnavailable, TimedOut, UnknownTask
from edgeslm.messages import Attempt, Request, Result
from edgeslm.serving.cascade import Stage, StageAnswer, run_stages
from edgeslm.serving.collections import Collections
from edgeslm.serving.escalation import Target
from edgeslm.serving.model_pool import ModelPool
from edgeslm.serving.remote import RemoteTarget
from edgeslm.serving.scheduler import OnChunk
from edgeslm.tasks import Task
from edgeslm.telemetry.drift import DriftWatch

if TYPE_CHECKING:
    from edgeslm.redaction.patterns import Span


RANKING = "rerank:"
"""Before ``model:NAME``: the task by which this decoder ranks documents. Clients can't name it."""


@dataclass(frozen=True, slots=True)
class StageBinding:
    """One stage of a task: the task with the settings of this stage, and the stage's model and adapter."""

    name: str
    task: Task
    model: str | None
    """Name of the stage's model; None for word search, which needs no model."""
    adapter: Bundle | None

    def through_adapter(self, call: Call) -> Call:
        if self.adapter is not None and isinstance(call, Generate | Score):
            return replace(call, adapter=str(self.adapter.path))
        return call


class Deployment:
    """Models, tasks and collections of one configuration, loaded by :meth:`start`.

    :param bindings: the stages of each task. :param watches: drift watches, by task.
    :param direct: bindings of ``model:NAME``, which only the HTTP API may use, and of ``RANKING`` before it,
        by which a decoder ranks documents. :param remotes: the servers that tasks ask at last.
    """

    def __init__(
        self,
        config: Config,
        trust: Trust,
        models: ModelPool,
        library: Collections,
        bindings: Mapping[str, Sequence[StageBinding]],
        watches: Mapping[str, DriftWatch],
        direct: Mapping[str, Sequence[StageBinding]],
        remotes: Mapping[str, RemoteTarget],
    ) -> None:
        self.config = config
        self._trust = trust
        self.models = models
        self.library = library
        self.bindings = bindings
        self.watches = watches
        self._direct = direct
        self.direct_tasks = {
            name: stages[0].task for name, stages in direct.items() if not name.startswith(RANKING)
        }
        """The tasks ``model:NAME`` of the HTTP API: text by a decoder, embeddings by an encoder, ranking by a
        reader."""
        self.tasks = {name: stages[0].task for name, stages in bindings.items()}
        """Task name -> the first stage's :class:`Task`, which checks requests and describes results."""
        self.targets = {
            name: remotes.get(name) or Target.of(str(section.last_stage or ""), self.tasks[name])
            for name, section in config.tasks.items()
        }
        """Task name -> whom it asks at last, on another node or server; None if it asks nobody."""
        self._requests = 0
        self._turns: dict[str, asyncio.Semaphore] = {}
        """Model -> lets as many calls of :meth:`find_spans` run as it has workers."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def start(self) -> None:
        """:raises BundleError: a required signature is missing, or an engine refuses a bundle.
        :raises KnowledgeError: a collection can't be used.
        """
        await self._trust.check()  # before any bundle is used
        await asyncio.gather(self.models.start(), self.library.start())

    async def start_models(self) -> None:
        """Starts the models but not the collections, next to a running deployment.

        :raises BundleError: see :meth:`start`.
        """
        await self._trust.check()
        await self.models.start()

    async def stop(self, beside: Collection[Deployment] = ()) -> None:
        """Stops all parts that aren't shared with a deployment in ``beside``."""
        if all(other.library is not self.library for other in beside):
            await self.library.stop()  # before the models, since it uses an encoder
        await self.models.stop([other.models for other in beside])

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of this node's children, by name."""
        return {**self.models.pids, **self.library.pids}

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self._requests += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._is_idle.set()

    async def until_idle(self) -> None:
        """Waits until no request is running."""
        await self._is_idle.wait()

    def task_for(self, request: Request) -> Task | None:
        """The task that a request names; None if there is none, or if it is only for other senders."""
        if (task := self.tasks.get(request.task)) is not None:
            return task
        if not request.is_direct:
            return None
        stages = self._direct.get(request.task)
        return None if stages is None else stages[0].task

    def reranker_of(self, name: str) -> str | None:
        """Name of the task by which the model of ``model:NAME`` ranks documents; None if it ranks none."""
        task = self.direct_tasks.get(name)
        if task is not None and task.kind == "rerank":
            return name
        return ranking if (ranking := f"{RANKING}{name}") in self._direct else None

    def tasks_of(self, model: str) -> list[str]:
        """The tasks that use a model, either in a stage or as the encoder or reader of their collections."""
        read = {name for name, one in self.config.knowledge.items() if model in (one.encoder, one.reader)}
        return [
            name
            for name, bindings in self.bindings.items()
            if any(binding.model == model for binding in bindings)
            or read & set(self.config.tasks[name].knowledge)
        ]

    def adapter_of(self, task: str) -> Bundle | None:
        """Adapter of a task's first stage; None if there is none."""
        return self.bindings[task][0].adapter

    def model_of(self, task: str) -> str | None:
        """Name of the model of a task's first stage; None if there is none."""
        return self.bindings[task][0].model

    def result_schema(self, task: str) -> dict[str, Any]:
        """JSON Schema of a task's results. A server gives a label without the scores of a node."""
        schema = self.tasks[task].result_schema()
        if isinstance(self.targets[task], RemoteTarget):
            required = [key for key in schema["required"] if key not in ("confidence", "scores")]
            return {**schema, "required": required}
        return schema

    def stages_of(self, task: str) -> tuple[str, ...]:
        target = self.targets[task]
        return (*(binding.name for binding in self.bindings[task]), *([target.stage] if target else ()))

    async def run(self, request: Request, on_chunk: OnChunk | None, attempt: Attempt | None) -> Result:
        """:raises RequestError: no stage could answer, or the task doesn't exist any more."""
        stages = self.bindings.get(request.task) or self._direct.get(request.task)
        if stages is None:  # a reload removed it while the request waited
            raise UnknownTask(f"there is no task {request.task!r} here any more")
        started = time.monotonic()

        def stage_of(binding: StageBinding) -> Stage:
            async def ask(request: Request) -> StageAnswer:
                return await self._ask_binding(binding, request, on_chunk, attempt)

            return Stage(binding.name, ask)

        with self._in_use():
            answer = await run_stages([stage_of(binding) for binding in stages], request)
        return _result(request, answer, started)

    async def find_spans(
        self, model: str, text: str, labels: Sequence[str], least: float | None, attempt: Attempt | None
    ) -> list[Span]:
        """What a zero-shot model finds in a text; see :func:`edgeslm.serving.span_search.find_spans`. Each
        call has the time limit of a request, once it is its turn. ``attempt`` records when it runs; a full
        journal, which can't record that, is no reason not to run it.

        :raises ModelUnavailable: there is no such model, or it can't be loaded. :raises RequestError: another
            failure of the model.
        """
        from edgeslm.serving.span_search import TimedAttempt, find_spans  # memory of the parent process

        section = self.models.bundle(model).manifest.zero_shot if model in self.models.names else None
        if section is None or section.kind != "gliner":  # a reload has replaced it
            raise ModelUnavailable(f"there is no model {model!r} of kind gliner here any more")
        limit_s = self.config.limits.request_timeout_s
        turn = self._turns.setdefault(model, asyncio.Semaphore(self.config.models[model].workers))

        async def ask(call: FindSpans) -> Output:
            try:
                async with turn, asyncio.timeout(None) as limit:
                    timed = TimedAttempt(attempt, limit, limit_s)
                    return await self.models.ask(model, call, None, timed)
            except TimeoutError:
                raise TimedOut(f"not done after {limit_s:.1f} s") from None
            finally:
                if attempt is not None:
                    attempt.wait()

        with self._in_use():
            return await find_spans(text, labels, section, least, ask)

    async def _ask_binding(
        self, binding: StageBinding, request: Request, on_chunk: OnChunk | None, attempt: Attempt | None
    ) -> StageAnswer:
        async def ask(call: Call, on_chunk: OnChunk | None = None) -> Output:
            if binding.model is None:
                raise InternalError(f"task {request.task} has no model to ask")
            call = binding.through_adapter(call)
            return await self.models.ask(binding.model, call, on_chunk, attempt, request.priority)

        label = None if binding.model is None else self.models.label(binding.model)
        if binding.adapter is not None:  # small@sha256:1f3a...+sha256:9c2b...
            label = f"{label}+{short_digest(binding.adapter.digest)}"
        outcome = await binding.task.run(request, ask, on_chunk)
        watch = self.watches.get(request.task)
        if watch is not None and binding is self.bindings[request.task][0]:
            given = outcome.result.get("label", "")  # fields have none
            watch.see(given, outcome.result["confidence"], outcome.distance)
        return StageAnswer(outcome, label)


def _result(request: Request, answer: StageAnswer, started: float) -> Result:
    outcome = answer.outcome
    cost = outcome.cost
    received_at = request.received_at or started
    return Result(
        id=request.id,
        task=request.task,
        status=outcome.status,
        result=outcome.result,
        model=answer.model,
        timings_ms={
            "queue": (started - received_at) * 1000,
            "prefill": cost.prefill_ms,
            "decode": cost.decode_ms,
            "total": (time.monotonic() - received_at) * 1000,
        },
        usage={"prompt_tokens": cost.prompt_tokens, "completion_tokens": cost.completion_tokens},
        truncated=outcome.truncated,
    )
