"""A deployment: what a configuration comes to, with bundles, models, tasks and their stages.

A node has one at a time. Another takes over from it between two requests (``service``), and what is
the same in both goes on: engines that are loaded, the process of the collections, what is known of drift.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgeslm.bundle.manifest import Bundle, check_adapter, short_digest
from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import LEARNABLE, Config
from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.schema import LEARNED, NODE_STAGE
from edgeslm.config.schema import Model as ModelSection
from edgeslm.engine.calls import Call, Generate, Hardware, Output, Score
from edgeslm.engine.host.team import make_engine
from edgeslm.engine.worker.prepared import CACHE
from edgeslm.errors import BundleError, ConfigError, InternalError, RequestError, UnknownTask
from edgeslm.hardware.board import usable_cores
from edgeslm.knowledge.service.process import KnowledgeProcess
from edgeslm.messages import LEAST_PRIORITY, Attempt, Request, Result
from edgeslm.serving.cascade import Stage, StageAnswer, run_stages
from edgeslm.serving.collections import Collections, MakeKnowledge
from edgeslm.serving.escalation import Target
from edgeslm.serving.model_pool import MakeProcess, ModelPool
from edgeslm.serving.scheduler import OnChunk
from edgeslm.tasks import Task, make_task
from edgeslm.telemetry.drift import DriftWatch


@dataclass(frozen=True, slots=True)
class StageBinding:
    """One stage of a task on this node: the task as this stage does it, its model and adapter."""

    name: str
    task: Task
    model: str | None
    """None where words alone are searched, which no model does."""
    adapter: Bundle | None

    def through_adapter(self, call: Call) -> Call:
        if self.adapter is not None and isinstance(call, Generate | Score):
            return replace(call, adapter=str(self.adapter.path))
        return call


class _WarmError(Exception):
    """Ends a task that is only to have its prompt read."""


_ANY_TEXT: Final = "."
"""What stands in the place of a message: what is read of the prompt before it is what counts."""


class Deployment:
    """Models, tasks and collections of one configuration, once :meth:`start` has loaded them.

    :param running: what is at work now; what is the same there is shared, and not started again.
    :raises BundleError: a bundle can't be read.
    :raises ConfigError: tasks and bundles don't fit together.
    """

    def __init__(
        self,
        config: Config,
        *,
        running: Deployment | None = None,
        make_process: MakeProcess | None = None,
        make_knowledge: MakeKnowledge = KnowledgeProcess,
    ) -> None:
        self.config = config
        self._trust = Trust(config.signing, config.state_dir)
        problems: list[str] = []
        bundles = {name: self._trust.load(Path(model.bundle)) for name, model in config.models.items()}
        self._learned = {
            name: self._trust.load(Path(task.learned)) for name, task in config.tasks.items() if task.learned
        }
        self._adapters = self._load_adapters(config, problems)
        self._bundles = bundles | _own_encoders(self._learned, bundles)
        self._bindings: dict[str, tuple[StageBinding, ...]] = {}
        for name, section in config.tasks.items():
            try:
                self._bindings[name] = self._make_posts(name, section)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        adapters: dict[str, dict[Path, str | None]] = {}
        for binding in self._all_bindings():
            if binding.adapter is not None and binding.model is not None:
                adapters.setdefault(binding.model, {})[binding.adapter.path] = binding.adapter.digest
        self.models = self._make_models(config, adapters, make_process, running)
        self.library = Collections(
            config.knowledge,
            self.models,
            remembered=frozenset(route.remember for route in config.routes if route.remember),
            log_level=config.log_level.upper(),
            make_process=make_knowledge,
        )
        if running is not None and running.library.plan == self.library.plan:
            self.library = running.library
        for binding in self._all_bindings():
            binding.task.documents = self.library
        self.tasks = {name: bindings[0].task for name, bindings in self._bindings.items()}
        """What checks requests and describes results, by the name of the task."""
        self.watches = self._make_watches(running)
        """That of the first stage of each task that has one: a later stage sees only what the others weren't
        sure of, which is never like what it was taught with."""
        self.targets = {
            name: Target.of(section.stages or (section.escalate or "",), self.tasks[name])
            for name, section in config.tasks.items()
        }
        self._requests = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def _all_bindings(self) -> Iterator[StageBinding]:
        return itertools.chain.from_iterable(self._bindings.values())

    async def start(self) -> None:
        """
        :raises BundleError: a bundle isn't signed though it must be, or an engine refuses it.
        :raises KnowledgeError: a collection can't be used.
        """
        await self._trust.check()  # before anything of a bundle runs
        await asyncio.gather(self.models.start(), self.library.start())

    async def start_models(self) -> None:
        """Beside what is at work. :raises BundleError: as :meth:`start`."""
        await self._trust.check()
        await self.models.start()

    async def stop(self, beside: Collection[Deployment] = ()) -> None:
        """Ends all but what others ``beside`` have too."""
        if all(other.library is not self.library for other in beside):
            await self.library.stop()  # it asks an encoder
        await self.models.stop([other.models for other in beside])

    @property
    def pids(self) -> dict[str, int]:
        """The processes of this node beside its own, by what they are for."""
        return {**self.models.pids, **self.library.pids}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a request is being run."""
        self._requests += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._is_idle.set()

    async def until_idle(self) -> None:
        """Waits until no request is being run."""
        await self._is_idle.wait()

    async def warm(self) -> None:
        """Has decoders read what all prompts of a task begin with, so that its first request needn't wait for
        that. Any request is more urgent, and goes before it."""
        for name, bindings in self._bindings.items():
            for binding in bindings:
                if binding.model is None or not self.models.is_loaded(binding.model):
                    continue
                if self._bundles[binding.model].manifest.model_kind == "decoder":
                    await self._warm(name, binding, binding.model)

    async def _warm(self, name: str, binding: StageBinding, model: str) -> None:
        section, is_answer = binding.task.section, binding.task.kind == "answer"
        if section.verbatim or (is_answer and section.mode == "quote"):
            return  # the grammar is made of the message, and a cache serves one grammar

        async def ask(call: Call, on_chunk: OnChunk | None = None) -> Output:
            if isinstance(call, Generate) and call.sampling.temperature > 0:
                raise _WarmError  # its cache isn't kept
            if isinstance(call, Generate | Score):
                call = replace(call, only_read=True)
            await self.models.ask(model, binding.through_adapter(call), priority=LEAST_PRIORITY)
            raise _WarmError

        options = {"context": _ANY_TEXT} if is_answer else {}
        request = Request(task=name, input=_ANY_TEXT, id=name, reply_to="", options=options)
        with contextlib.suppress(_WarmError, RequestError, TimeoutError):
            # What hangs is ended as a request would be.
            async with asyncio.timeout(self.config.limits.request_timeout_s):
                await binding.task.run(request, ask, None)

    def tasks_of(self, model: str) -> list[str]:
        """The tasks in one of whose stages a model has a part, or whose collections it embeds or reads."""
        read = {name for name, one in self.config.knowledge.items() if model in (one.encoder, one.reader)}
        return [
            name
            for name, bindings in self._bindings.items()
            if any(binding.model == model for binding in bindings)
            or read & set(self.config.tasks[name].knowledge)
        ]

    def adapter_of(self, task: str) -> Bundle | None:
        """The adapter that the first stage's calls go through."""
        return self._bindings[task][0].adapter

    def model_of(self, task: str) -> str | None:
        """Name of the model that serves a task's first stage, if one does."""
        return self._bindings[task][0].model

    def stages_of(self, task: str) -> tuple[str, ...]:
        target = self.targets[task]
        return (*(binding.name for binding in self._bindings[task]), *([target.stage] if target else ()))

    def _make_models(
        self,
        config: Config,
        adapters: Mapping[str, dict[Path, str | None]],
        make_process: MakeProcess | None,
        running: Deployment | None,
    ) -> ModelPool:
        return ModelPool(
            self._bundles,
            {
                name: Hardware(_threads(model), model.device, model.workers)
                for name, model in config.models.items()
            },
            keep_alive_s={name: model.keep_alive_s for name, model in config.models.items()},
            adapters=adapters,
            running=None if running is None else running.models,
            make_process=make_process
            or partial(
                make_engine,
                power=config.power,
                cache=config.state_dir / CACHE,
                log_level=config.log_level.upper(),
            ),
        )

    def _load_adapters(self, config: Config, problems: list[str]) -> dict[str, Bundle]:
        """The adapters that tasks name, by task."""
        adapters = {}
        for name, task in config.tasks.items():
            if task.adapter is not None:
                try:
                    adapters[name] = self._trust.load(Path(task.adapter))
                except BundleError as error:
                    problems.append(f"tasks.{name}.adapter: {error}")
        return adapters

    def _make_posts(self, name: str, section: TaskSection) -> tuple[StageBinding, ...]:
        """:raises ConfigError: a stage that its bundle doesn't fit."""
        own = section.model_copy(update={"stages": ()})
        if section.stages and section.learned:
            own = own.model_copy(update=_shared(section, self._learned[name]))
        bindings = []
        for stage in section.stages or ((LEARNED,) if section.learned else (section.model or "",)):
            if stage == LEARNED:
                # Instruction and examples are for the models behind it.
                alone = {"instruction": None, "examples": ()} if section.stages else {}
                bindings.append(self._learned_post(name, own.model_copy(update=alone)))
            elif own.kind == "search":
                encoder = self.config.knowledge[own.knowledge[0]].encoder
                bindings.append(StageBinding(stage, make_task(name, own), encoder, None))
            elif not stage.startswith(NODE_STAGE):
                behind = own.model_copy(update={"model": stage, "learned": None})
                if section.stages and own.kind == "extract":  # what is written has no confidence: it answers
                    behind = behind.model_copy(update={"max_error": None, "threshold": 0.0})
                bindings.append(self._model_post(name, behind))
        self._check_stages(name, section, bindings)
        return tuple(bindings)

    def _check_stages(self, name: str, section: TaskSection, bindings: Sequence[StageBinding]) -> None:
        where = f"tasks.{name}.stages"
        if section.stages and any(binding.task.kind not in LEARNABLE for binding in bindings):
            raise ConfigError([f"{where}: mean something to {' and '.join(LEARNABLE)} alone; take them out"])
        for binding, behind in zip(bindings, section.stages[1:], strict=False):
            if binding.task.kind == "extract" and not binding.task.is_head:
                raise ConfigError(
                    [f"{where}: {binding.name} writes fields and never passes on, so {behind} is never asked"]
                )

    def _learned_post(self, name: str, section: TaskSection) -> StageBinding:
        bundle = self._learned[name]
        manifest, where = bundle.manifest, f"tasks.{name}.learned"
        if manifest.learned is None:
            raise ConfigError([f"{where}: {section.learned} holds no task that was learned"])
        if manifest.adapter is not None:
            model = section.model or self._find(manifest.adapter.base)
            if model is None:
                base = short_digest(manifest.adapter.base)
                raise ConfigError([f"{where}: name the decoder bundle {base} that it adds to in models"])
            return self._post(LEARNED, make_task(name, section, bundle), model, bundle, where)
        encoder = manifest.head.encoder if manifest.head else None
        found = self._find(encoder or bundle.digest)
        if found is None:
            raise ConfigError([f"{where}: name the encoder bundle {encoder} in models"])
        return self._post(LEARNED, make_task(name, section, bundle), found, None, where)

    def _model_post(self, name: str, section: TaskSection) -> StageBinding:
        model, adapter = section.model, self._adapters.get(name)
        if model is None:
            raise ConfigError([f"tasks.{name}.model: missing"])
        task = make_task(name, section, adapter)
        return self._post(model, task, model, adapter, f"tasks.{name}.adapter")

    def _post(self, stage: str, task: Task, model: str, adapter: Bundle | None, where: str) -> StageBinding:
        needed = "encoder" if task.is_head or task.kind == "embed" else "decoder"
        if (kind := self._bundles[model].manifest.model_kind) != needed:
            raise ConfigError(
                [f"tasks.{task.name}.model: {model} is of kind {kind}; this task needs kind {needed}"]
            )
        if task.kind == "embed" and self._bundles[model].manifest.is_reader:
            raise ConfigError([f"tasks.{task.name}.model: {model} reads questions and texts, it embeds none"])
        if adapter is not None:
            try:
                check_adapter(adapter, self._bundles[model])
            except BundleError as error:
                raise ConfigError([f"{where}: {error}"]) from None
        task.context_length = self._bundles[model].manifest.context_length
        return StageBinding(stage, task, model, adapter)

    def _find(self, digest: str) -> str | None:
        """The model whose bundle has this digest."""
        return next((name for name, bundle in self._bundles.items() if bundle.digest == digest), None)

    def _make_watches(self, running: Deployment | None) -> dict[str, DriftWatch]:
        """Those of tasks that stay as they were taught go on counting."""
        found = {}
        for name, bindings in self._bindings.items():
            bundle = self._learned.get(name)
            before = None if running is None else running._learned.get(name)  # noqa: SLF001  another of the same class
            is_same = bundle is not None and before is not None and bundle.digest == before.digest
            if running is not None and is_same and name in running.watches:
                found[name] = running.watches[name]
            elif (watch := _watch(bindings[0].task)) is not None:
                found[name] = watch
        return found

    async def run(self, request: Request, on_chunk: OnChunk | None, attempt: Attempt | None) -> Result:
        """:raises RequestError: why there is no result."""
        if request.task not in self._bindings:  # it waited while another configuration took over
            raise UnknownTask(f"there is no task {request.task!r} here any more")
        started = time.monotonic()

        def stage_of(binding: StageBinding) -> Stage:
            async def ask(request: Request) -> StageAnswer:
                return await self._ask_binding(binding, request, on_chunk, attempt)

            return Stage(binding.name, ask)

        answer = await run_stages([stage_of(binding) for binding in self._bindings[request.task]], request)
        return _result(request, answer, started)

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
        if watch is not None and binding is self._bindings[request.task][0]:
            given = outcome.result.get("label", "")  # fields have none
            watch.see(given, outcome.result["confidence"], outcome.distance)
        return StageAnswer(outcome, label)


def _threads(model: ModelSection) -> int:
    """0 for as many as are best of one; several share the processor's cores."""
    if model.threads != "auto":
        return model.threads
    return 0 if model.workers == 1 else max(1, usable_cores() // model.workers)


def _watch(task: Task) -> DriftWatch | None:
    """For a task that brings what it was tested with."""
    learned = task.learned
    if learned is None or learned.reference is None:
        return None
    return DriftWatch(learned.reference, learned.labels)


def _own_encoders(learned: Mapping[str, Bundle], named: Mapping[str, Bundle]) -> dict[str, Bundle]:
    """The models that learned tasks bring; tasks with one folder share one, and what is named isn't twice."""
    found: dict[str, Bundle] = {}
    known = {bundle.path.resolve() for bundle in named.values()}
    for name, bundle in learned.items():
        if bundle.manifest.model_kind is not None and bundle.path.resolve() not in known:
            known.add(bundle.path.resolve())
            found[f"{LEARNED}/{name}"] = bundle
    return found


def _shared(section: TaskSection, learned: Bundle) -> dict[str, Any]:
    """What the other stages of a task need to know of what was learned, where the section doesn't say it."""
    taught = learned.manifest.learned
    if taught is None:
        return {}
    return {
        "kind": section.kind or taught.kind,
        "labels": section.labels or dict.fromkeys(taught.labels, "") or None,
        "output_schema": section.output_schema or taught.output_schema,
    }


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
