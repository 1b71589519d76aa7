"""Configuration loader: parses YAML text into a frozen ``Config``, or reports every problem in the text with
its line number.

The loader reads only the file; ``edgeslm doctor`` and the daemon check folders, broker and models. The
sections are defined in ``edgeslm.config.schema``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, get_args

from pydantic import ValidationError

from edgeslm.config import yaml_source
from edgeslm.config.diagnostics import problems_of, read_text, sentence_of
from edgeslm.config.names import Names
from edgeslm.config.remote_stages import ChatServer, RemoteStage
from edgeslm.config.route_sections import Route
from edgeslm.config.route_validation import UNKNOWN_FILTER
from edgeslm.config.schema import Config, Knowledge, Task
from edgeslm.config.sections import Broker, Section
from edgeslm.config.task_kinds import LEARNABLE, Kind
from edgeslm.config.validation import inconsistencies
from edgeslm.config.yaml_source import YamlDocument, YamlProblem, read_document

__all__ = [
    "LEARNABLE",
    "Broker",
    "Config",
    "Kind",
    "Knowledge",
    "Route",
    "Task",
    "config_schema",
    "empty_sections",
    "load_config",
    "load_task",
    "parse_config",
]

_DEPTH: dict[str | int, int] = {"broker": 2, "models": 3, "tasks": 3, "knowledge": 3, "routes": 3}
"""Top-level key -> level at which invalid values are removed, so that the rest of the file can be validated.
At level 3, an invalid label removes all of ``tasks.triage.labels``. For top-level keys that aren't listed,
the level is 1."""


_INSTEAD: dict[str | int, tuple[str, ...]] = {
    "kind": ("learned",),
    "model": ("learned", "stages"),
    "labels": ("learned", "adapter"),
    "schema": ("learned", "adapter"),
    "stages": ("learned",),
    "max_error": ("learned", "adapter"),
}
"""Key of a task -> keys that can replace it."""


def load_config(path: Path) -> Config:
    """Loads a configuration file. A relative path in the file is relative to the file's folder.

    :raises ConfigError: the file is invalid; the error lists every problem as ``file:line: key: sentence``.
    """
    text = read_text(path)
    return parse_config(text, str(path), path.absolute().parent)


def load_task(
    path: Path, kind: Kind | None, defaults: Mapping[str, Any], ignored: Collection[str] = ()
) -> tuple[str, Task]:
    """Loads a task file, which the build machine uses to train or evaluate a task. The file contains the keys
    of one task, as in the section ``tasks`` of a node's configuration, and the task's ``name``.

    ``model`` and ``stages`` are ignored, since the model is given on the command line.

    :param kind: kind of the task if the file names no kind; None allows a task without a kind. The caller has
        to check the kind of the returned task.
    :param defaults: values of missing keys. If ``kind`` is given, the defaults apply only to a task of this
        kind. If ``kind`` is None, they apply only to a task without a kind or of a kind that can be trained.
    :param ignored: further keys to ignore.
    :raises ConfigError: the file is invalid; the error lists every problem as ``file:line: key: sentence``.
    """
    read = read_document(read_text(path))
    name, task = None, None
    if isinstance(read.data, dict):
        entry = dict(read.data)
        name = entry.pop("name", None)
        if not isinstance(name, str):
            read.note(read.line(("name",)), ("name",), "missing: give the task a name")
            name = "task"
        for key in ("stages", *ignored):
            entry.pop(key, None)
        if kind is None and entry.get("kind") in (None, *LEARNABLE):
            entry = {**defaults, **entry}
        elif entry.get("kind", kind) == kind:
            entry = {"kind": kind, **defaults, **entry}
        entry["model"] = "model"
        whole = {"node": "-", "broker": {"url": "mqtts://-"}, "models": {"model": {"bundle": "-"}}}
        lines = {("tasks", name, *key): line for key, line in read.lines.items()}
        inner = YamlDocument({**whole, "tasks": {name: entry}}, lines)
        config = _validate(inner, path.absolute().parent)
        read.problems += [YamlProblem(p.line, p.path[2:] or ("name",), p.sentence) for p in inner.problems]
        task = config.tasks[name] if config is not None else None
    if task is None or name is None or read.problems:
        raise problems_of(read, str(path))
    return name, task


def parse_config(text: str, where: str = "config", folder: Path | None = None) -> Config:
    """Parses a configuration. ``where`` is the file name that error messages begin with.

    Relative paths are relative to ``folder``; None leaves them as they are. ``${VAR}`` is replaced by the
    environment variable ``VAR``.

    :raises ConfigError: the text is invalid; the error lists every problem as ``file:line: key: sentence``,
        ordered by line.
    """
    read = read_document(text)
    config = _validate(read, folder) if isinstance(read.data, dict) else None
    if config is None or read.problems:
        raise problems_of(read, where)
    return config


def empty_sections(document: YamlDocument) -> list[str]:
    """A note on each optional section that is written without a value, which leaves it off."""
    return list(_empty_sections(document.data, Config, ""))


def _empty_sections(data: Any, section: type[Section], path: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = field.alias or name
        inner = next(
            (one for one in (field.annotation, *get_args(field.annotation)) if _is_section(one)), None
        )
        if inner is None or not isinstance(data, dict) or key not in data:
            continue
        if data[key] is None:
            needs = any(one.is_required() for one in inner.model_fields.values())
            how = "give it its keys" if needs else f"write `{key}: {{}}` to turn it on"
            yield f"{path}{key} is empty, so it is off: {how}, or remove it"
        else:
            yield from _empty_sections(data[key], inner, f"{path}{key}.")


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the configuration file, for editors and ``edgeslm check --schema``."""
    schema = Config.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgeslm configuration",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _validate(read: YamlDocument, folder: Path | None) -> Config | None:
    """Validates the sections and appends every fault to ``read.problems``. Returns None if a section is
    invalid."""
    config, faults = _sections(read.data, folder)
    sound, indices = config, list(range(len(config.routes) if config else 0))
    if config is None:
        rest, indices = _without(read.data, [path for path, _ in faults])
        sound, _ = _sections(rest, folder)
    if sound is not None:
        broken = [path for path, _ in faults]
        unsound = frozenset(str(path[1]) for path in broken if path[0] == "knowledge" and len(path) > 1)
        models, tasks, knowledge = (_keys(read.data.get(key)) for key in ("models", "tasks", "knowledge"))
        names = Names(models, tasks, knowledge, unsound)
        follow = inconsistencies(sound, names, indices)
        faults += [fault for fault in follow if not any(_follows(fault[0], path) for path in broken)]
    # A text with a problem of its own, such as an unset variable, is empty here: no second problem for it.
    unread = [problem.path for problem in read.problems]
    for path, sentence in faults:
        if not any(other[: len(path)] == path for other in unread):
            read.note(read.line(path), path, sentence)
    return config


def _follows(path: yaml_source.Path, broken: yaml_source.Path) -> bool:
    """Whether the fault at ``path`` may be only a consequence of the fault at ``broken``. This is the case if
    one path is a prefix of the other. It is also the case if a required key at ``path`` seems to be missing
    only because an invalid key, which may replace the required key, was removed."""
    instead = _INSTEAD.get(path[2], ()) if path[:1] == ("tasks",) and len(path) == 3 else ()
    return _related(path, broken) or any(_related((*path[:2], key), broken) for key in instead)


def _related(path: yaml_source.Path, other: yaml_source.Path) -> bool:
    """Whether one path is a prefix of the other."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


_NO_KEYS = ("[key]", "[name]", "[server]")
"""Parts of pydantic's paths that aren't keys of the file."""


def _sections(
    data: dict[str, Any], folder: Path | None
) -> tuple[Config | None, list[tuple[yaml_source.Path, str]]]:
    try:
        text = json.dumps(data)
        return Config.model_validate_json(text, context={"folder": folder}), []
    except ValidationError as error:
        faults = []
        for entry in error.errors(include_url=False):
            if entry["type"] == "default_factory_not_called":
                continue
            path = tuple(part for part in entry["loc"] if part not in _NO_KEYS)
            faults.append((path, sentence_of(entry, path, _section_at(path))))
        return None, faults


def _keys(value: Any) -> frozenset[str]:
    return frozenset(value) if isinstance(value, dict) else frozenset()


def _without(data: dict[str, Any], broken: list[yaml_source.Path]) -> tuple[dict[str, Any], list[int]]:
    """The data without its invalid keys, and the original positions of the remaining routes.

    Missing required keys get placeholders, so that the rest can be validated. A placeholder can cause faults
    only at paths that are already reported as invalid.
    """
    gone = {path[: _DEPTH.get(path[0], 1)] for path in broken}
    rest = {key: value for key, value in data.items() if (key,) not in gone}
    rest.setdefault("node", "-")
    rest["broker"] = {"url": "mqtts://-", **_sound_keys(rest.get("broker"), ("broker",), gone)}
    rest["models"] = {}  # the rest uses only their names
    knowledge = rest.get("knowledge")
    rest["knowledge"] = {
        name: {"path": "-", **_sound_keys(section, ("knowledge", name), gone)}
        for name, section in (knowledge.items() if isinstance(knowledge, dict) else ())
        if ("knowledge", name) not in gone
    }
    tasks = rest.get("tasks")
    rest["tasks"] = {
        name: _sound_keys(task, ("tasks", name), gone)
        for name, task in (tasks.items() if isinstance(tasks, dict) else ())
        if ("tasks", name) not in gone
    } or {"-": {}}
    routes = rest.get("routes")
    indices: list[int] = []
    rest["routes"] = []
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if ("routes", index) not in gone:
            indices.append(index)
            sound = _sound_keys(route, ("routes", index), gone)
            stand_ins = {"from": UNKNOWN_FILTER, **({} if "remember" in sound else {"task": "-"})}
            rest["routes"].append({**stand_ins, **sound})
    rest.pop("limits", None)
    return rest, indices


def _sound_keys(section: Any, path: yaml_source.Path, gone: set[yaml_source.Path]) -> dict[str, Any]:
    if not isinstance(section, dict):
        return {}
    return {key: value for key, value in section.items() if (*path, key) not in gone}


def _section_at(path: yaml_source.Path) -> type[Section]:
    """The section class that defines the key at ``path``; ``Config`` for top-level keys."""
    if path[0] == "tasks" and len(path) > 3 and path[2] in ("stages", "escalate"):
        return ChatServer if "openai" in path[3:-1] else RemoteStage
    field = Config.model_fields.get(str(path[0])) if len(path) > 1 else None
    return next(_sections_in(field.annotation), Config) if field is not None else Config


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    """Yields the section classes in a type, such as ``Model`` in ``Mapping[Name, Model]``."""
    if _is_section(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)
