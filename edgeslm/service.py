"""Requests in, results out, without a bus: tasks, models and the scheduler put together.

The daemon puts a bus in front of it, ``edgeslm try`` a terminal.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from edgeslm.bundle import Bundle, HeadSection, check_adapter, short_digest
from edgeslm.config import Config
from edgeslm.config import Task as TaskSection
from edgeslm.engine.calls import Call, Generate, Output, Score
from edgeslm.engine.process import EngineProcess
from edgeslm.errors import BundleError, ConfigError, RequestError, UnknownTask
from edgeslm.messages import Request, Result
from edgeslm.models import MakeProcess, Models
from edgeslm.scheduler import OnChunk, OnStart, Scheduler, error_result
from edgeslm.tasks import Ask, Outcome, Task, make_task
from edgeslm.trust import Trust

LEARNED = "learned/"
"""Before the task's name: the model that a learned task brings. Names in a configuration have no slash."""


class Service:
    """What a configuration can do, once :meth:`start` has loaded its models.

    :raises BundleError: a bundle can't be read.
    :raises ConfigError: tasks and bundles don't fit together.
    """

    def __init__(self, config: Config, *, make_process: MakeProcess | None = None) -> None:
        self._trust = Trust(config.signing, config.state_dir)
        problems: list[str] = []
        self._adapters = self._load_adapters(config, problems)
        self._learned = {
            name: self._trust.load(Path(task.learned)) for name, task in config.tasks.items() if task.learned
        }
        named = {Path(model.bundle).resolve() for model in config.models.values()}
        own_encoders: dict[str, Path] = {}
        for name, bundle in self._learned.items():
            if bundle.manifest.model_kind is not None and bundle.path.resolve() not in named:
                own_encoders[f"{LEARNED}{name}"] = bundle.path
                named.add(bundle.path.resolve())  # tasks with one folder share one engine
        self.models = Models(
            {**{name: Path(model.bundle) for name, model in config.models.items()}, **own_encoders},
            {name: 0 if model.threads == "auto" else model.threads for name, model in config.models.items()},
            adapters=self._adapters_by_model(config),
            make_process=make_process
            or (
                lambda bundle, threads, adapters: EngineProcess(
                    bundle.path,
                    digest=bundle.digest,
                    threads=threads,
                    adapters=adapters,
                    log_level=config.log_level.upper(),
                )
            ),
            load=self._trust.load,
        )
        self.tasks: dict[str, Task] = {}
        self._model_of: dict[str, str] = {}
        for name, section in config.tasks.items():
            try:
                self._add_task(name, section)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        limits = config.limits
        # The messages held at a time are bounded before; one that several routes read is as many requests.
        held = limits.queue + limits.queue_unsure
        self.scheduler = Scheduler(
            self._run, limit=held * max(1, len(config.routes)), timeout_s=limits.request_timeout_s
        )

    async def start(self) -> None:
        """:raises BundleError: a bundle isn't signed though it must be, or an engine refuses it."""
        await self._trust.check()  # before anything of a bundle runs
        await self.models.start()

    async def stop(self) -> None:
        await self.models.stop()

    async def submit(
        self, request: Request, on_chunk: OnChunk | None = None, on_start: OnStart | None = None
    ) -> Result:
        """Exactly one result; what can be refused without the engine is refused before the queue.

        ``on_start`` is called before each try of running it, and may refuse it with a RequestError.
        """
        task = self.tasks.get(request.task)
        try:
            if task is None:
                names = ", ".join(sorted(self.tasks))
                raise UnknownTask(f"there is no task {request.task!r} here; there are: {names}")
            task.check(request)
        except RequestError as error:
            return error_result(request, error)
        return await self.scheduler.submit(request, on_chunk, on_start)

    def adapter_of(self, task: str) -> Bundle | None:
        """The adapter that a task's calls go through."""
        return self._adapters.get(task)

    def model_of(self, task: str) -> str:
        """Name of the model that serves a task."""
        return self._model_of[task]

    def _load_adapters(self, config: Config, problems: list[str]) -> dict[str, Bundle]:
        """The adapters of all tasks, by task."""
        adapters = {}
        for name, task in config.tasks.items():
            if task.adapter is not None:
                try:
                    adapters[name] = self._trust.load(Path(task.adapter))
                except BundleError as error:
                    problems.append(f"tasks.{name}.adapter: {error}")
        return adapters

    def _adapters_by_model(self, config: Config) -> dict[str, dict[Path, str | None]]:
        found: dict[str, dict[Path, str | None]] = {}
        for name, adapter in self._adapters.items():
            if (model := config.tasks[name].model) is not None:
                found.setdefault(model, {})[adapter.path] = adapter.digest
        return found

    def _add_task(self, name: str, section: TaskSection) -> None:
        head: HeadSection | None = None
        head_digest: str | None = None
        model = section.model
        if (bundle := self._learned.get(name)) is not None:
            head, head_digest = bundle.manifest.head, bundle.digest
            if head is None:
                raise ConfigError([f"tasks.{name}.learned: {section.learned} holds no learned head"])
            found = self.models.find(head.encoder or bundle.digest)
            if found is None:
                raise ConfigError([f"tasks.{name}.learned: name the encoder bundle {head.encoder} in models"])
            model = found
        if model is None:
            raise ConfigError([f"tasks.{name}.model: missing"])
        task = make_task(name, section, head, head_digest)
        needed = "encoder" if head is not None or task.kind == "embed" else "decoder"
        if (kind := self.models.bundle(model).manifest.model_kind) != needed:
            raise ConfigError(
                [f"tasks.{name}.model: {model} is of kind {kind}; this task needs kind {needed}"]
            )
        if name in self._adapters:
            try:
                check_adapter(self._adapters[name], self.models.bundle(model))
            except BundleError as error:
                raise ConfigError([f"tasks.{name}.adapter: {error}"]) from None
        self.tasks[name] = task
        self._model_of[name] = model

    async def _run(self, request: Request, on_chunk: OnChunk | None, on_start: OnStart | None) -> Result:
        started = time.monotonic()
        model = self._model_of[request.task]
        outcome = await self.tasks[request.task].run(request, self._ask(request.task, on_start), on_chunk)
        return self._result(request, outcome, model, started)

    def _ask(self, task: str, on_start: OnStart | None) -> Ask:
        model, adapter = self._model_of[task], self._adapters.get(task)
        has_begun = False

        def on_try(attempt: int) -> None:
            """A task may ask the engine several times: that is one start, unless the engine crashes."""
            nonlocal has_begun
            if on_start is not None and (attempt > 1 or not has_begun):
                on_start()
            has_begun = True

        async def ask(call: Call, on_chunk: OnChunk | None = None) -> Output:
            if adapter is not None and isinstance(call, Generate | Score):
                call = replace(call, adapter=str(adapter.path))
            return await self.models.ask(model, call, on_chunk, on_try)

        return ask

    def _label(self, task: str, model: str) -> str:
        """What computed a result: ``small@sha256:1f3a...``, and ``+sha256:9c2b...`` for the adapter."""
        adapter = self._adapters.get(task)
        return self.models.label(model) + (f"+{short_digest(adapter.digest)}" if adapter else "")

    def _result(self, request: Request, outcome: Outcome, model: str, started: float) -> Result:
        cost = outcome.cost
        received_at = request.received_at or started
        return Result(
            id=request.id,
            task=request.task,
            status=outcome.status,
            result=outcome.result,
            model=self._label(request.task, model),
            timings_ms={
                "queue": (started - received_at) * 1000,
                "prefill": cost.prefill_ms,
                "decode": cost.decode_ms,
                "total": (time.monotonic() - received_at) * 1000,
            },
            usage={"prompt_tokens": cost.prompt_tokens, "completion_tokens": cost.completion_tokens},
            truncated=outcome.truncated,
        )
