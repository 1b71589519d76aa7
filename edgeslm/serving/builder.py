"""Deployment builder: turns a configuration and its bundles into models, collections, tasks and stages.

The builder reads bundles but doesn't start any process. All problems are reported at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from edgeslm.bundle.manifest import Bundle, check_adapter, short_digest
from edgeslm.bundle.trust import Trust
from edgeslm.config.extras import install_line
from edgeslm.config.loader import LEARNABLE, Config
from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.schema import LEARNED, NODE_STAGE
from edgeslm.config.schema import Model as ModelSection
from edgeslm.config.task_kinds import POSSIBLE, Kind
from edgeslm.engine.calls import Hardware
from edgeslm.engine.host.team import make_engine
from edgeslm.engine.worker.prepared import CACHE
from edgeslm.errors import BundleError, ConfigError
from edgeslm.hardware.board import usable_cores
from edgeslm.serving.collections import Collections
from edgeslm.serving.deployment import RANKING, Deployment, StageBinding
from edgeslm.serving.fitted_bias import bias_key, fitted_task, load_biases, use_bias
from edgeslm.serving.model_pool import MakeProcess, ModelPool
from edgeslm.serving.remote import RemoteTarget
from edgeslm.tasks import Task, make_task
from edgeslm.tasks.rerank import Rerank
from edgeslm.telemetry.drift import DriftWatch

DIRECT_TOKENS = 512
"""Maximum of new tokens of a request to ``model:NAME`` that names none."""
WORDS = "words"
"""Stage name of a task that searches by words only."""


def build_deployment(
    config: Config, *, running: Deployment | None = None, make_process: MakeProcess | None = None
) -> Deployment:
    """Builds the deployment of a configuration.

    :param running: the current deployment; identical parts are shared with it.
    :param make_process: function that creates engines, instead of :func:`make_engine`.
    :raises ConfigError: bundles can't be read, or tasks, collections and bundles don't fit together.
    """
    builder = _Builder(config, running)
    bindings, direct = builder.bind_tasks(), builder.bind_models()
    builder.check_routes()
    remotes = builder.bind_remotes(bindings)
    if builder.problems or builder.library is None:
        raise ConfigError(builder.problems)
    models = _make_models(config, builder.bundles, bindings, running, make_process)
    if running is None or builder.library is not running.library:
        builder.library.use(models)  # a shared library keeps the running models
    watches = _make_watches(bindings, running)
    return Deployment(config, builder.trust, models, builder.library, bindings, watches, direct, remotes)


def _make_models(
    config: Config,
    bundles: Mapping[str, Bundle],
    bindings: Mapping[str, Sequence[StageBinding]],
    running: Deployment | None,
    make_process: MakeProcess | None,
) -> ModelPool:
    adapters: dict[str, dict[Path, str | None]] = {}
    for binding in chain.from_iterable(bindings.values()):
        if binding.adapter is not None and binding.model is not None:
            adapters.setdefault(binding.model, {})[binding.adapter.path] = binding.adapter.digest
    named = config.models.items()
    return ModelPool(
        bundles,
        {name: Hardware(_threads(model), model.device, model.workers) for name, model in named},
        keep_alive_s={name: model.keep_alive_s for name, model in named},
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


def _make_watches(
    bindings: Mapping[str, Sequence[StageBinding]], running: Deployment | None
) -> dict[str, DriftWatch]:
    """Maps each task name to the watch that detects drift in the task's first stage. Later stages have no
    watch, since they see only uncertain messages, which always differ from the training data. Tasks with an
    unchanged bundle keep their watch."""
    found = {}
    for name, (first, *_) in bindings.items():
        learned, bundle = first.task.learned, first.task.bundle
        if bundle is None or learned is None or learned.reference is None:
            continue
        before = running.bindings.get(name) if running is not None else None
        was = before[0].task.bundle if before else None
        if running is not None and was is not None and was.digest == bundle.digest:
            found[name] = running.watches[name]
        else:
            found[name] = DriftWatch(learned.reference, learned.labels)
    return found


class _Builder:
    """Builds one configuration. Unreadable bundles are recorded as problems and skipped in further checks."""

    def __init__(self, config: Config, running: Deployment | None) -> None:
        self.trust = Trust(config.signing, config.state_dir)
        self.problems: list[str] = []
        self._config = config
        models, tasks = config.models.items(), config.tasks.items()
        named = self._load("models.{}.bundle", {name: one.bundle for name, one in models})
        self._learned = self._load("tasks.{}.learned", {name: one.learned for name, one in tasks})
        self._adapters = self._load("tasks.{}.adapter", {name: one.adapter for name, one in tasks})
        self.bundles = named | _own_encoders(self._learned, named)
        self._is_whole = len(named) == len(models)
        self.library = self._make_library(running)
        """The node's collections; None if the bundle of an encoder or reader can't be read or is of the wrong
        kind."""

    def _load(self, key: str, paths: Mapping[str, str | Path | None]) -> dict[str, Bundle]:
        found = {}
        for name, path in paths.items():
            try:
                if path:
                    found[name] = self.trust.load(Path(path))
            except BundleError as error:
                self.problems.append(f"{key.format(name)}: {error}")
        return found

    def _make_library(self, running: Deployment | None) -> Collections | None:
        config = self._config
        used = {model for one in config.knowledge.values() for model in (one.encoder, one.reader) if model}
        if not used <= self.bundles.keys():
            return None
        try:
            library = Collections(
                config.knowledge,
                self.bundles,
                remembered=frozenset(route.remember for route in config.routes if route.remember),
                log_level=config.log_level.upper(),
            )
        except ConfigError as error:
            self.problems += error.problems
            return None
        return running.library if running is not None and running.library.plan == library.plan else library

    def bind_tasks(self) -> dict[str, tuple[StageBinding, ...]]:
        found = {}
        for name, section in self._config.tasks.items():
            try:
                if self._is_read(name, section):
                    found[name] = self._bind(name, section)
            except ConfigError as error:
                self.problems += error.problems
        return found

    def bind_models(self) -> dict[str, tuple[StageBinding, ...]]:
        """The tasks ``model:NAME`` of the HTTP API, if it offers models, and those by which decoders rank."""
        found: dict[str, tuple[StageBinding, ...]] = {}
        api = self._config.api
        if api is None or not api.models:
            return {}
        for name in self._config.models.keys() & self.bundles.keys():
            manifest, task = self.bundles[name].manifest, f"model:{name}"
            if manifest.is_reader:
                found[task] = (self._bind_reranker(task, name),)
                continue
            if manifest.zero_shot is not None:
                continue  # a request without a task names no labels
            kind: Kind = "generate" if manifest.model_kind == "decoder" else "embed"
            if kind == "generate":
                found[f"{RANKING}{task}"] = (self._bind_reranker(f"{RANKING}{task}", name),)
            section = TaskSection(kind=kind, model=name, allow=POSSIBLE[kind], max_tokens=DIRECT_TOKENS)
            found[task] = (self._bind_model(task, section),)
        return found

    def _bind_reranker(self, task: str, model: str) -> StageBinding:
        section = TaskSection(model=model, allow=("priority", "deadline_ms"))
        length = self.bundles[model].manifest.context_length
        return StageBinding(model, Rerank(task, section, None, None, length), model, None)

    def check_routes(self) -> None:
        """Notes the routes whose ``redact_model`` finds no spans."""
        for index, route in enumerate(self._config.routes):
            bundle = self.bundles.get(route.redact_model or "")
            section = None if bundle is None else bundle.manifest.zero_shot
            if bundle is not None and (section is None or section.kind != "gliner"):
                self.problems.append(
                    f"routes[{index}].redact_model: {route.redact_model} is no zero-shot model of kind "
                    "gliner: name a bundle that edgeslm-export encoder made of a GLiNER model"
                )

    def bind_remotes(self, bound: Collection[str]) -> dict[str, RemoteTarget]:
        """The servers that the ``bound`` tasks ask at last."""
        found = {}
        for name, section in self._config.tasks.items():
            if section.remote is None or name not in bound:
                continue
            if find_spec("httpx2") is None:
                missing = f"needs the extra remote, which isn't installed: {install_line('remote')}"
                self.problems.append(f"tasks.{name}: openai {missing}")
            alone = {"stages": (), "learned": None, "adapter": None, "max_error": None, "threshold": 0.0}
            shared = _shared(section, self._learned[name]) if section.learned else {}
            task = make_task(name, section.model_copy(update={**shared, **alone}), documents=self.library)
            found[name] = RemoteTarget(section.remote, task)
        return found

    def _is_read(self, name: str, section: TaskSection) -> bool:
        """Whether all of a task's bundles were read."""
        unread = ({section.model, *section.stages} & self._config.models.keys()) - self.bundles.keys()
        is_taught = not section.learned or name in self._learned
        return not unread and is_taught and (not section.adapter or name in self._adapters)

    def _bind(self, name: str, section: TaskSection) -> tuple[StageBinding, ...]:
        """:raises ConfigError: a stage and its bundle don't fit together."""
        own = section.model_copy(update={"stages": ()})
        if section.stages and section.learned:
            own = own.model_copy(update=_shared(section, self._learned[name]))
        bindings = []
        for stage in section.stages or ((LEARNED,) if section.learned else (section.model or "",)):
            if stage == LEARNED:
                # Instruction and examples are for the models after it.
                alone = {"instruction": None, "examples": ()} if section.stages else {}
                bindings.append(self._bind_learned(name, own.model_copy(update=alone)))
            elif not stage:  # search, and answers that quote collections
                encoder = self._config.knowledge[own.knowledge[0]].encoder
                task = make_task(name, own, documents=self.library)
                bindings.append(StageBinding(encoder or WORDS, task, encoder, None))
            elif isinstance(stage, str) and not stage.startswith(NODE_STAGE):
                behind = own.model_copy(update={"model": stage, "learned": None})
                decodes = stage in self.bundles and self.bundles[stage].manifest.zero_shot is None
                if section.stages and own.kind in ("extract", "generate") and decodes:  # no confidence
                    behind = behind.model_copy(update={"max_error": None, "threshold": 0.0})
                bindings.append(self._bind_model(name, behind))
        self._check_stages(name, section, bindings)
        self._use_bias(bindings)
        return tuple(bindings)

    def _use_bias(self, bindings: Sequence[StageBinding]) -> None:
        """Gives a task the label bias that was fitted to its corrections."""
        task = fitted_task(bindings)
        if task is not None and task.section.model is not None:
            key = bias_key(task.section, self.bundles[task.section.model].digest)
            use_bias(task, load_biases(self._config).get(task.name), key)

    def _check_stages(self, name: str, section: TaskSection, bindings: Sequence[StageBinding]) -> None:
        where = f"tasks.{name}.stages"
        kinds = (*LEARNABLE, "generate")
        if section.stages and any(binding.task.kind not in kinds for binding in bindings):
            raise ConfigError([f"{where}: are for {' and '.join(kinds)} only; remove them"])
        for binding, behind in zip(bindings, section.stages[1:], strict=False):
            if binding.task.kind == "extract" and not binding.task.needs_encoder:
                raise ConfigError(
                    [f"{where}: {binding.name} writes fields and never passes on, so {behind} is never asked"]
                )

    def _bind_learned(self, name: str, section: TaskSection) -> StageBinding:
        bundle = self._learned[name]
        manifest, where = bundle.manifest, f"tasks.{name}.learned"
        if manifest.learned is None:
            raise ConfigError([f"{where}: {section.learned} holds no task that was learned"])
        adapter = bundle if manifest.adapter is not None else None
        if manifest.adapter is not None:
            model = section.model or self._find(manifest.adapter.base)
            missing = f"the decoder bundle {short_digest(manifest.adapter.base)} that it adds to"
        else:
            encoder = manifest.head.encoder if manifest.head else None
            model, missing = self._find(encoder or bundle.digest), f"the encoder bundle {encoder}"
        if model is None and self._is_whole:
            raise ConfigError([f"{where}: name {missing} in models"])
        if model is None:
            raise ConfigError([])  # its bundle is probably one that can't be read
        length = self.bundles[model].manifest.context_length
        task = make_task(name, section, bundle, documents=self.library, context_length=length)
        return self._bind_stage(LEARNED, task, model, adapter, where)

    def _bind_model(self, name: str, section: TaskSection) -> StageBinding:
        model, adapter = section.model, self._adapters.get(name)
        if model is None:
            raise ConfigError([f"tasks.{name}.model: missing"])
        manifest = self.bundles[model].manifest
        task = make_task(
            name,
            section,
            adapter,
            documents=self.library,
            context_length=manifest.context_length,
            zero_shot=manifest.zero_shot,
        )
        return self._bind_stage(model, task, model, adapter, f"tasks.{name}.adapter")

    def _bind_stage(
        self, stage: str, task: Task, model: str, adapter: Bundle | None, where: str
    ) -> StageBinding:
        needed = "encoder" if task.needs_encoder else "decoder"
        if (kind := self.bundles[model].manifest.model_kind) != needed:
            raise ConfigError(
                [f"tasks.{task.name}.model: {model} is of kind {kind}; this task needs kind {needed}"]
            )
        if task.kind == "embed" and not self.bundles[model].manifest.embeds:
            what = "a reader" if self.bundles[model].manifest.is_reader else "a zero-shot model"
            raise ConfigError([f"tasks.{task.name}.model: {model} is {what}, which can't embed texts"])
        if adapter is not None:
            try:
                check_adapter(adapter, self.bundles[model])
            except BundleError as error:
                raise ConfigError([f"{where}: {error}"]) from None
        return StageBinding(stage, task, model, adapter)

    def _find(self, digest: str) -> str | None:
        """Name of the model whose bundle has this digest; None if there is no such model."""
        return next((name for name, bundle in self.bundles.items() if bundle.digest == digest), None)


def _threads(model: ModelSection) -> int:
    """Number of threads of each worker. If the configuration says ``auto``, a single worker gets 0, which
    makes the engine choose the best number; several workers get equal shares of the cores."""
    if model.threads != "auto":
        return model.threads
    return 0 if model.workers == 1 else max(1, usable_cores() // model.workers)


def _own_encoders(learned: Mapping[str, Bundle], named: Mapping[str, Bundle]) -> dict[str, Bundle]:
    """Bundles in ``learned`` that contain an encoder, without duplicates and without bundles in ``named``."""
    found: dict[str, Bundle] = {}
    known = {bundle.path.resolve() for bundle in named.values()}
    for name, bundle in learned.items():
        if bundle.manifest.model_kind is not None and bundle.path.resolve() not in known:
            known.add(bundle.path.resolve())
            found[f"{LEARNED}/{name}"] = bundle
    return found


def _shared(section: TaskSection, learned: Bundle) -> dict[str, Any]:
    """Settings of the ``learned`` bundle that apply to all stages of a task, unless the task's section of the
    configuration sets them."""
    taught = learned.manifest.learned
    if taught is None or section.kind == "generate":
        return {}
    return {
        "kind": section.kind or taught.kind,
        "labels": section.labels or dict.fromkeys(taught.labels, "") or None,
        "output_schema": section.output_schema or taught.output_schema,
    }
