"""Checks that the keys of a configuration fit each other, after each section was validated on its own.

Finds unknown names, keys that don't apply to a kind, invalid JSON Schemas, templates that don't compile, and
routes that form a loop. Pure: opens no file and no connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeslm.config.json_schemas import schema_faults
from edgeslm.config.network_validation import network_faults
from edgeslm.config.remote_stages import RemoteStage, remote_faults
from edgeslm.config.route_sections import Route
from edgeslm.config.schema import LEARNED, NODE_STAGE, Config, Task
from edgeslm.config.sections import Pool, Rollouts
from edgeslm.config.task_kinds import ALLOWED, LEARNABLE, POSSIBLE, Kind
from edgeslm.config.yaml_source import Path
from edgeslm.errors import TemplateError
from edgeslm.protocol.topic_filters import NODE_CHANNELS, overlap, topic_name_fault

Fault = tuple[Path, str]

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


UNKNOWN_FILTER = "$-"
"""Placeholder for the ``from`` of a route whose own ``from`` is invalid; no route can publish on a topic that
matches it."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all models, tasks and collections in the file, including invalid models, tasks and
    collections."""

    models: frozenset[str]
    tasks: frozenset[str]
    knowledge: frozenset[str] = frozenset()
    unsound: frozenset[str] = frozenset()
    """Names of collections whose section in the file is invalid. The validator may not know which models such
    a collection uses."""


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
                yield ("knowledge", name, key), f"no model is called {model!r}: {_near(model, names.models)}"
    yield from _route_faults(config, names, route_indices)
    if config.pool is not None:
        yield from _pool_faults(config.pool, names)
    if config.rollouts is not None:
        yield from _rollout_faults(config.rollouts, config.updates.trial_s, names)


def _pool_faults(pool: Pool, names: Names) -> Iterator[Fault]:
    for index, name in enumerate(pool.tasks):
        path: Path = ("pool", "tasks", index)
        if name not in names.tasks:
            yield path, f"no task is called {name!r}: {_near(name, names.tasks)}"
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
            sentence = f"no model is called {model!r}: {_near(model, names.models)}"
            yield ("rollouts", "models", module), sentence


def _near(name: str, known: frozenset[str]) -> str:
    import difflib  # memory of the parent process

    found = difflib.get_close_matches(name, sorted(known), 1)
    if found:
        return f"did you mean {found[0]}?"
    return f"there is {', '.join(sorted(known)[:10])}" if known else "there is none in this file"


def _task_faults(path: Path, task: Task, names: Names, node: str) -> Iterator[Fault]:
    if task.model is not None and task.model not in names.models:
        yield (*path, "model"), f"no model is called {task.model!r}: {_near(task.model, names.models)}"
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
        yield (*path, "model"), f"missing: name the model that does it; {_near('', names.models)}"
    elif task.kind == "answer" and task.remote is None:
        for key in sorted(task.model_fields_set & (_GENERATION | {"adapter", "instruction"})):
            yield (*path, key), "has no effect without a model; remove it"


def _knowledge_faults(path: Path, task: Task, config: Config, names: Names) -> Iterator[Fault]:
    if task.kind == "search" and not task.knowledge:
        yield (*path, "knowledge"), f"missing: name what is searched; {_near('', names.knowledge)}"
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
            yield where, f"no collection is called {name!r}: {_near(name, names.knowledge)}"
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
            yield where, f"no model is called {stage!r}: {_near(stage, names.models)}"


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
                f"{example.output!r} is none of the labels: {_near(example.output, frozenset(task.labels))}",
            )


def _label_bias_faults(path: Path, task: Task) -> Iterator[Fault]:
    if isinstance(task.calibration, str):
        return
    if task.labels is not None and set(task.calibration) != set(task.labels):
        yield (*path, "calibration"), "must name each of the labels, and no others: measure it again"
    own = [stage for stage in task.stages if isinstance(stage, str) and not stage.startswith(NODE_STAGE)]
    if sum(stage != LEARNED for stage in own) > 1:
        yield (*path, "calibration"), "belongs to one model, and the stages name several: remove it"


def _route_faults(config: Config, names: Names, indices: Sequence[int]) -> Iterator[Fault]:
    seen: set[str] = set()
    outputs: list[list[str] | None] = []
    for route, index in zip(config.routes, indices, strict=True):
        path: Path = ("routes", index)
        if route.name in seen:
            yield (*path, "name"), f"another route is called {route.name!r}: choose another name"
        seen.add(route.name or "")
        yield from _reader_faults(path, route, config, names)
        yield from _own_topic_faults((*path, "from"), route.source, config.base)
        if config.pool is not None and overlap(route.source.split("/"), config.pool_requests):
            yield (
                (*path, "from"),
                "would read requests to this node's pool once more: watch something narrower",
            )
        yield from _template_faults(path, route)
        output = _output(route, config.base)
        if isinstance(output, str):
            yield (*path, "to"), output
        outputs.append(output if isinstance(output, list) and route.source != UNKNOWN_FILTER else None)
    yield from _loops(config.routes, indices, outputs)
    known = [output for output in outputs if output is not None]
    for topic in config.discovery.topics if len(known) == len(outputs) else ():
        if not any(overlap(topic.split("/"), output) for output in known):
            yield ("discovery", "topics"), f"no route publishes to {topic}: remove it, or see the routes' to"


def _reader_faults(path: Path, route: Route, config: Config, names: Names) -> Iterator[Fault]:
    """Faults in a route's task, collection and window."""
    if route.task is None and route.remember is None:
        yield (*path, "task"), f"missing: name the task that reads the messages; {_near('', names.tasks)}"
    elif route.task is not None and route.task not in names.tasks:
        yield (*path, "task"), f"no task is called {route.task!r}: {_near(route.task, names.tasks)}"
    if route.remember is not None and route.remember not in names.knowledge:
        near = _near(route.remember, names.knowledge)
        yield (*path, "remember"), f"no collection is called {route.remember!r}: {near}"
    if route.keep_s is not None and route.remember is None:
        yield (*path, "keep_s"), "is for what is remembered; remove it, or name a collection in remember"
    if route.task is None:
        for key in ("to", "on_change", "retain", "qos", "window"):
            if key in route.model_fields_set:
                yield (*path, key), "without a task nothing is published; remove it"
    if route.window is not None:
        task = config.tasks.get(route.task or "")
        if task is not None and route.task in names.tasks and task.kind != "summarize":
            yield (*path, "window"), f"needs a task of kind summarize, and {route.task} is none"
        if route.window.on is not None:
            yield from _own_topic_faults((*path, "window"), route.window.on, config.base)
        if config.journal.keep == "none":
            yield (*path, "window"), "keeps texts on this disk, and journal says none; remove one of them"


def _own_topic_faults(path: Path, source: str, base: str) -> Iterator[Fault]:
    for channel in NODE_CHANNELS:
        own = [*base.split("/"), channel, "#"]
        if channel != "event" and overlap(source.split("/"), own):
            yield path, f"would read this node's own {channel} topics: watch something narrower"
            return


def _template_faults(path: Path, route: Route) -> Iterator[Fault]:
    from edgeslm.config import templates  # lazy: only routes need Jinja2

    for key, source, check in (
        ("input", route.input, templates.make_input),
        ("when", route.when, templates.make_condition),
    ):
        if source is None:
            continue
        try:
            check(source)
        except TemplateError as error:
            yield (*path, key), str(error)


def _output(route: Route, base: str) -> list[str] | str:
    """The levels of a route's output topic, with wildcards in place of templates, or an error message if the
    topic is invalid."""
    from edgeslm.config import templates

    if route.to is None:
        return [*base.split("/"), "event", route.name or ""]
    try:
        levels = templates.topic_pattern(route.to, "#" if route.source == UNKNOWN_FILTER else route.source)
    except TemplateError as error:
        return str(error)
    if "{" not in route.to and (fault := topic_name_fault(route.to)):
        return fault
    own = base.split("/")
    if levels[: len(own)] == own and levels[len(own) : len(own) + 1] != ["event"]:
        return "would write to the node's own topics: publish somewhere else"
    return levels


def _loops(
    routes: Sequence[Route], indices: Sequence[int], outputs: list[list[str] | None]
) -> Iterator[Fault]:
    """Yields a fault for each cycle of routes, in which each route reads the output of the previous route."""
    feeds = [
        [reader for reader, route in enumerate(routes) if output and overlap(output, route.source.split("/"))]
        for output in outputs
    ]
    reported: set[frozenset[int]] = set()
    for start in range(len(routes)):
        cycle = _cycle(start, feeds)
        if cycle is None or frozenset(cycle) in reported:
            continue
        reported.add(frozenset(cycle))
        key = "to" if routes[start].to else "from"
        path: Path = ("routes", indices[start], key)
        if len(cycle) == 1:
            yield path, f"a loop: what it publishes comes back through its own from ({routes[start].source})"
        else:
            names = " -> ".join(str(routes[index].name) for index in (*cycle, start))
            yield path, f"a loop: the routes {names} feed each other; change the to or from of one of them"


def _cycle(start: int, feeds: list[list[int]]) -> list[int] | None:
    """The shortest path from a route back to itself, by breadth-first search; None if there is none."""
    paths = [[start]]
    seen: set[int] = set()
    for path in paths:
        for reader in feeds[path[-1]]:
            if reader == start:
                return path
            if reader not in seen:
                seen.add(reader)
                paths.append([*path, reader])
    return None
