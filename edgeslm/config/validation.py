"""Checks that the keys of a configuration fit each other, after each section was validated on its own.

Finds unknown names, keys that don't apply to a kind, and invalid JSON Schemas. Pure: opens no file and no
connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeslm.config.json_schemas import schema_faults
from edgeslm.config.names import Fault, Names, near
from edgeslm.config.network_validation import network_faults
from edgeslm.config.remote_stages import RemoteStage, remote_faults
from edgeslm.config.route_validation import route_faults
from edgeslm.config.schema import LEARNED, NODE_STAGE, Config, Task
from edgeslm.config.sections import Pool, Rollouts
from edgeslm.config.task_kinds import ALLOWED, LEARNABLE, POSSIBLE, Kind
from edgeslm.config.yaml_source import Path

_GENERATION = frozenset({"max_tokens", "temperature", "top_p", "repetition_penalty", "seed", "stop"})
_KEYS: dict[Kind, frozenset[str]] = {
    "classify": frozenset(
        {"instruction", "labels", "learned", "examples", "adapter", "max_error", "stages", "calibration"}
    ),
    "extract": frozenset(
        {"instruction", "output_schema", "examples", "verbatim", "adapter", "learned", "max_error", "stages"}
    )
    | (_GENERATION - {"stop"}),
    "answer": frozenset({"instruction", "mode", "adapter", "knowledge", "passages", "escalate"})
    | _GENERATION,
    "summarize": frozenset({"instruction", "examples", "adapter", "grounded"}) | _GENERATION,
    "generate": frozenset(
        {"instruction", "examples", "adapter", "learned", "max_error", "stages", "reply", "error_reply"}
    )
    | _GENERATION,
    "embed": frozenset(),
    "search": frozenset({"knowledge", "passages"}),
}
"""Kind -> keys that apply to it, besides the keys that apply to all kinds."""
_COMMON = frozenset({"kind", "model", "threshold", "overflow", "allow", "checks"})


def inconsistencies(config: Config, names: Names, route_indices: Sequence[int]) -> Iterator[Fault]:
    """Yields every fault, with the path of the key to change.

    ``route_indices`` contains, for each route of ``config``, the position of the route in the file. The two
    positions differ if an invalid route was removed from ``config``.
    """
    yield from network_faults(config)
    strangers = config.rollouts is not None or config.updates.are_from_afar
    if fault := config.signing.fault(strangers=strangers):
        yield ("signing", fault[0]), fault[1]
    yield from _journal_faults(config)
    for name, task in config.tasks.items():
        if name in names.tasks:  # not a placeholder
            yield from _task_faults(("tasks", name), task, names, config.node)
            yield from _knowledge_faults(("tasks", name), task, config, names)
    files: dict[str, str] = {}
    for name, section in config.knowledge.items():
        file = str(section.path).removesuffix(".sqlite")  # the suffix is optional
        if (other := files.setdefault(file, name)) != name:
            yield ("knowledge", name, "path"), f"is the file of {other}: each passage would be found twice"
        for key, model in (("encoder", section.encoder), ("reader", section.reader)):
            if model is not None and model not in names.models:
                yield ("knowledge", name, key), f"no model is called {model!r}: {near(model, names.models)}"
    yield from route_faults(config, names, route_indices)
    if config.pool is not None:
        yield from _pool_faults(config.pool, names)
    if config.rollouts is not None:
        yield from _rollout_faults(config.rollouts, config.updates.trial_s, names)


def _pool_faults(pool: Pool, names: Names) -> Iterator[Fault]:
    for index, name in enumerate(pool.tasks):
        path: Path = ("pool", "tasks", index)
        if name not in names.tasks:
            yield path, f"no task is called {name!r}: {near(name, names.tasks)}"
        elif name in pool.tasks[:index]:
            yield path, f"{name} is named already: name each task once"


def _journal_faults(config: Config) -> Iterator[Fault]:
    if config.journal.keep == "full":
        return
    if config.journal.key_file is not None:
        yield ("journal", "key_file"), "has no effect while nothing is kept; remove it, or set keep: full"
    if config.durability == "spool":
        yield (
            ("durability",),
            "spool keeps every message on this disk, and journal says none; remove one of them",
        )


def _rollout_faults(rollouts: Rollouts, trial_s: float, names: Names) -> Iterator[Fault]:
    if rollouts.timeout_s <= trial_s:
        sentence = f"must be more than updates.trial_s ({trial_s:g}), or every bundle would be rolled back"
        yield ("rollouts", "timeout_s"), sentence
    if rollouts.cert_file and not rollouts.key_file:
        yield ("rollouts", "key_file"), "missing: cert_file needs the key that belongs to it"
    if not (rollouts.is_secure or rollouts.allow_http):
        yield ("rollouts", "url"), "without TLS the token can be read on the network: write https://"
    for index, address in enumerate(rollouts.downloads):
        if not (address.startswith("https://") or rollouts.allow_http):
            yield ("rollouts", "downloads", index), "must begin with https://"
    for module, model in rollouts.models.items():
        if model not in names.models:
            sentence = f"no model is called {model!r}: {near(model, names.models)}"
            yield ("rollouts", "models", module), sentence


def _task_faults(path: Path, task: Task, names: Names, node: str) -> Iterator[Fault]:
    if task.model is not None and task.model not in names.models:
        yield (*path, "model"), f"no model is called {task.model!r}: {near(task.model, names.models)}"
    if task.kind is None and not task.learned:
        yield (*path, "kind"), f"missing: add one of {', '.join(ALLOWED)}"
        return
    if task.model is not None and task.kind == "search":
        yield (*path, "model"), "has no effect for search, which uses only its encoder; remove it"
    if task.model is None and not task.learned and not task.stages:
        yield from _model_faults(path, task, names)
    # Without a kind, the learned bundle decides it.
    kinds = LEARNABLE if task.kind is None else (task.kind,)
    for key in sorted(task.model_fields_set - _COMMON - frozenset().union(*(_KEYS[kind] for kind in kinds))):
        if getattr(task, key) is not None:
            users = [name for name, keys in _KEYS.items() if key in keys]
            key = Task.model_fields[key].alias or key
            yield (
                (*path, key),
                f"has no effect for {' or '.join(kinds)} (only for {', '.join(users)}); remove it",
            )
    for option in task.allow or ():
        if not any(option in POSSIBLE[kind] for kind in kinds):
            possible = ", ".join(POSSIBLE[kinds[0]])
            yield (*path, "allow"), f"{option} has no effect for {kinds[0]}; possible are {possible}"
    yield from _learned_faults(path, task)
    yield from _stage_faults(path, task, names, node)
    if task.kind is None:
        return
    yield from _example_faults(path, task.kind, task)
    yield from _label_bias_faults(path, task)
    if task.kind == "classify" and task.labels is None and not task.learned and not task.adapter:
        yield (*path, "labels"), "missing: list what to choose from, or give the folder of a learned head"
    elif task.kind == "extract":
        if task.output_schema is not None:
            yield from schema_faults((*path, "schema"), dict(task.output_schema))
        elif not task.learned and not task.adapter:
            yield (*path, "schema"), "missing: give the JSON Schema of the fields to find"


def _model_faults(path: Path, task: Task, names: Names) -> Iterator[Fault]:
    """Faults of a task without a model."""
    if task.needs_model:
        yield (*path, "model"), f"missing: name the model that does it; {near('', names.models)}"
    elif task.kind == "answer" and task.remote is None:
        for key in sorted(task.model_fields_set & (_GENERATION | {"adapter", "instruction"})):
            yield (*path, key), "has no effect without a model; remove it"


def _knowledge_faults(path: Path, task: Task, config: Config, names: Names) -> Iterator[Fault]:
    if task.kind == "search" and not task.knowledge:
        yield (*path, "knowledge"), f"missing: name what is searched; {near('', names.knowledge)}"
    if task.escalate is not None:
        if isinstance(task.escalate, RemoteStage):
            yield from remote_faults((*path, "escalate"), task.escalate, task.kind)
        elif not task.escalate.startswith(NODE_STAGE):
            yield (
                (*path, "escalate"),
                "must be node:NODE/TASK, as node:hall-server/manual, or openai: {url: ..., model: ...}",
            )
        elif task.escalate.removeprefix(NODE_STAGE).partition("/")[0] == config.node:
            yield (*path, "escalate"), "is this node itself: name another one"
        if not task.knowledge:
            yield (*path, "escalate"), "is for questions to documents: name them in knowledge, or remove it"
    encoders, readers = dict[str | None, str](), dict[str | None, str]()
    for index, name in enumerate(task.knowledge):
        where: Path = (*path, "knowledge", index)
        if name not in names.knowledge:
            yield where, f"no collection is called {name!r}: {near(name, names.knowledge)}"
        elif name in task.knowledge[:index]:
            yield where, f"{name} is named already: name each collection once"
        elif (section := config.knowledge.get(name)) is not None and name not in names.unsound:
            for model, found in ((section.encoder, encoders), (section.reader, readers)):
                if model is None or model in names.models:
                    found.setdefault(model, name)
    for what, found in (("encoders", encoders), ("readers", readers)):
        if len(found) > 1:
            first, other, *_ = found.values()
            apart = f"{first} and {other} have different {what}, whose figures can't be compared"
            yield (*path, "knowledge"), f"{apart}: make two tasks"


def _learned_faults(path: Path, task: Task) -> Iterator[Fault]:
    if task.learned and task.adapter and not task.stages:
        yield (
            (*path, "adapter"),
            "has no effect with learned, unless stages name a model; remove it",
        )
    if task.learned and "labels" in (task.allow or ()):
        yield (*path, "allow"), "labels can't be set by senders here: the trained task has its own"
    if task.max_error is not None and task.kind in (None, "generate", *LEARNABLE):
        if task.threshold:
            yield (*path, "threshold"), "max_error sets the threshold; remove one of them"
        elif not (task.learned or task.adapter):
            yield (
                (*path, "max_error"),
                "needs a task that edgeslm-export tune has trained: set a threshold instead",
            )


def _stage_faults(path: Path, task: Task, names: Names, node: str) -> Iterator[Fault]:
    if task.kind == "generate":
        if task.stages and task.stages[0] != LEARNED:
            yield (*path, "stages"), f"of generate begin with {LEARNED}, which calls tools: name it first"
        for key in ("reply", "error_reply"):
            if getattr(task, key) is not None and not task.learned:
                yield (*path, key), "has no effect without learned; remove it"
    if task.stages and task.learned and LEARNED not in task.stages:
        yield (*path, "stages"), f"{LEARNED} is none of them: name it, or remove learned"
    if len(task.stages) > 1 and not task.threshold and task.max_error is None:
        yield (
            (*path, "stages"),
            "no stage passes requests on: set a threshold, or a max_error for a trained task",
        )
    if task.stages and task.model is not None:
        yield (*path, "model"), "the stages name the models; remove it"
    for index, stage in enumerate(task.stages):
        where: Path = (*path, "stages", index)
        if stage in task.stages[:index]:
            yield where, f"{stage} is asked already: name each stage once"
        elif stage == LEARNED:
            if not task.learned:
                yield where, "nothing was learned: give the folder that edgeslm-export tune wrote in learned"
        elif isinstance(stage, RemoteStage) or stage.startswith(NODE_STAGE):
            if index != len(task.stages) - 1:
                yield where, "another node or server can only be the last stage"
            elif index == 0:
                yield where, "a stage on this node comes first: name what was learned, or a model"
            elif isinstance(stage, RemoteStage):
                yield from remote_faults(where, stage, task.kind)
            elif stage.removeprefix(NODE_STAGE).partition("/")[0] == node:
                yield where, "is this node itself: name another one"
        elif stage not in names.models:
            yield where, f"no model is called {stage!r}: {near(stage, names.models)}"


def _example_faults(path: Path, kind: Kind, task: Task) -> Iterator[Fault]:
    known = [("examples", *item) for item in enumerate(task.examples)]
    for name, index, example in [*known, *(("checks", *item) for item in enumerate(task.checks))]:
        key: Path = (*path, name, index, "output")
        if kind == "extract":
            if isinstance(example.output, str):
                yield key, "must be a mapping of the fields to find"
        elif not isinstance(example.output, str):
            yield key, "must be a text: only examples of extract have fields"
        elif kind == "classify" and task.labels is not None and example.output not in task.labels:
            yield (
                key,
                f"{example.output!r} is none of the labels: {near(example.output, frozenset(task.labels))}",
            )


def _label_bias_faults(path: Path, task: Task) -> Iterator[Fault]:
    if isinstance(task.calibration, str):
        return
    if task.labels is not None and set(task.calibration) != set(task.labels):
        yield (*path, "calibration"), "must name each of the labels, and no others: measure it again"
    own = [stage for stage in task.stages if isinstance(stage, str) and not stage.startswith(NODE_STAGE)]
    if sum(stage != LEARNED for stage in own) > 1:
        yield (*path, "calibration"), "belongs to one model, and the stages name several: remove it"
