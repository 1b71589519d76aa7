"""Changes a configuration so that a task uses what it has learned; all other lines stay as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from edgeslm.config.loader import Config, parse_config
from edgeslm.errors import ConfigError

ENCODER = "encoder"


def with_learned(text: str, folder: Path, task: str, learned: Path, encoder: Path | None) -> str | None:
    """The configuration with ``learned`` instead of the task's ``model``, and without that model if nothing
    else uses it.

    :param text: a valid configuration. :param folder: its folder, which relative paths start from.
    :param encoder: a bundle to add to ``models``; None if it is there.
    :return: None if the text is laid out in another way than this function can change.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    section, models = _block(_block(root, "tasks"), task), _block(root, "models")
    if section is None or models is None:
        return None
    lines = text.splitlines(keepends=True)
    keys = {key.value: (key, value) for key, value in section.value}
    if "model" not in keys or "learned" in keys or "stages" in keys:
        return None
    key, value = keys["model"]
    if key.start_mark.line != value.end_mark.line or not models.value:
        return None
    added = "" if encoder is None else f"{_free(models)}: {{bundle: {_scalar(encoder)}}}\n"
    first = models.value[0][0].start_mark
    lines[key.start_mark.line] = f"{' ' * key.start_mark.column}learned: {_scalar(learned)}\n"
    lines[first.line] = (" " * first.column + added if added else "") + lines[first.line]
    changed = _valid("".join(lines), folder)
    if changed is None or changed[1].tasks[task].learned != learned:
        return None
    entry = next(node for name, node in models.value if name.value == value.value)
    if changed[1].api is None and entry.start_mark.line == entry.end_mark.line:
        own = lines[entry.start_mark.line].splitlines(keepends=True)
        lines[entry.start_mark.line] = "".join(own[:-1])
        changed = _valid("".join(lines), folder) or changed
    return changed[0]


def _valid(text: str, folder: Path) -> tuple[str, Config] | None:
    """The text and the configuration that it is; None if it has mistakes, such as a missing model."""
    try:
        return text, parse_config(text, folder=folder)
    except ConfigError:
        return None


def _block(node: yaml.Node | None, name: str) -> yaml.MappingNode | None:
    """The mapping below a key, if both are laid out in lines of their own."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return None
    found = next((value for key, value in node.value if key.value == name), None)
    return found if isinstance(found, yaml.MappingNode) and not found.flow_style else None


def _free(models: yaml.MappingNode) -> str:
    names = {key.value for key, _ in models.value}
    return next(name for name in (ENCODER, *(f"{ENCODER}-{n}" for n in range(2, 1000))) if name not in names)


def _scalar(path: Path) -> str:
    return str(path) if re.fullmatch(r"[\w./-]+", str(path)) else json.dumps(str(path), ensure_ascii=False)
