"""Checks of routes: unknown names, templates that don't compile, topics of the node itself, and loops.

Pure: opens no file and no connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeslm.config.names import Fault, Names, near
from edgeslm.config.route_sections import EXACT_KINDS, Route
from edgeslm.config.schema import Config
from edgeslm.config.yaml_source import Path
from edgeslm.errors import TemplateError
from edgeslm.protocol.topic_filters import NODE_CHANNELS, overlap, topic_name_fault

UNKNOWN_FILTER = "$-"
"""Placeholder for the ``from`` of a route whose own ``from`` is invalid; no route can publish on a topic that
matches it."""


def route_faults(config: Config, names: Names, indices: Sequence[int]) -> Iterator[Fault]:
    """``indices``: the position in the file of each route of ``config``."""
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
        yield from _redaction_faults(path, route, names)
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
        yield (*path, "task"), f"missing: name the task that reads the messages; {near('', names.tasks)}"
    elif route.task is not None and route.task not in names.tasks:
        yield (*path, "task"), f"no task is called {route.task!r}: {near(route.task, names.tasks)}"
    if route.remember is not None and route.remember not in names.knowledge:
        there = near(route.remember, names.knowledge)
        yield (*path, "remember"), f"no collection is called {route.remember!r}: {there}"
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


def _redaction_faults(path: Path, route: Route, names: Names) -> Iterator[Fault]:
    """Faults in what a route redacts."""
    model, others = route.redact_model, route.named_kinds
    misspelled = {kind: exact for kind in others if (exact := _exact_kind(kind))}
    for kind, exact in misspelled.items():
        yield (*path, "redact"), f"{kind!r} is no exact form: did you mean {exact}?"
    if model is None and (unknown := [kind for kind in others if kind not in misspelled]):
        yield (
            (*path, "redact"),
            f"{unknown[0]!r} has no exact form, as {', '.join(sorted(EXACT_KINDS))} have: name a zero-shot "
            "model of kind gliner as redact_model, or remove it",
        )
    if model is None and route.redact_threshold is not None:
        yield (*path, "redact_threshold"), "is for a redact_model; name one, or remove it"
    if model is not None and model not in names.models:
        yield (*path, "redact_model"), f"no model is called {model!r}: {near(model, names.models)}"
    elif model is not None and not others:
        yield (*path, "redact_model"), "redact names no kind for it, such as person; add one, or remove it"


def _exact_kind(kind: str) -> str | None:
    """The exact kind that is written in another way, such as ``Phone`` or ``e-mails``; None if there is
    none."""
    plain = "".join(one for one in kind.lower() if one.isalnum())
    return next((one for one in (plain, plain.removesuffix("s")) if one in EXACT_KINDS), None)


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
