"""Configuration diagnostics: turns YAML and pydantic errors into messages that tell the user what to
change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgeslm.config import yaml_source
from edgeslm.config.sections import Broker, Section
from edgeslm.config.yaml_source import YamlDocument, key_name
from edgeslm.errors import ConfigError


def read_text(path: Path) -> str:
    """:raises ConfigError: the file can't be read or isn't UTF-8."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(yaml_source.MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}:1: file: there is no such file"]) from None
    except (OSError, ValueError) as error:
        fault = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError([f"{path}:1: file: can't be read: {fault}"]) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: file: not UTF-8 here: save the file as UTF-8"]) from None


def problems_of(read: YamlDocument, where: str) -> ConfigError:
    """The error that lists all problems as ``file:line: key: sentence``, ordered by line."""
    problems = sorted(set(read.problems), key=lambda problem: (problem.line, key_name(problem.path)))
    lines = [f"{where}:{p.line}: {key_name(p.path)}: {p.sentence}" for p in problems]
    return ConfigError([line.replace("\n", " ") for line in lines])


def sentence_of(entry: Any, path: yaml_source.Path, section: type[Section]) -> str:
    """Turns a pydantic error into a message that tells the user what to change. ``section`` is the
    configuration section that contains the invalid key. The message never quotes a value of the ``broker``
    section."""
    kind, context, value = entry["type"], entry.get("ctx") or {}, entry.get("input")
    if kind == "missing":
        return "missing: add it"
    if kind == "extra_forbidden":
        return _unknown_key(str(path[-1]), section)
    if kind == "value_error":
        return str(context["error"])
    if value is None:
        return "empty: give it a value, or remove the key (a value with # or a leading * & needs quotes)"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'|(\d+)", context["expected"])
        return _choice([text or number for text, number in choices], value)
    if kind == "string_pattern_mismatch":
        return "no name: use letters, digits, _ . and -, at most 64, a letter or digit first"
    if sentence := _TYPES.get(kind):
        return sentence + (_quotes(value) if kind == "string_type" else "")
    if kind in ("int_type", "float_type", "bool_type"):
        return _NUMBERS[kind] + (
            ", without quotes" if isinstance(value, str) and _looks_like(kind, value) else ""
        )
    if limit := _LIMITS.get(kind):
        return limit.format(**context)
    return str(entry["msg"])


_TYPES = {
    "string_type": "must be a text",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "mapping_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list, as in [one, two]",
    "list_type": "must be a list, as in [one, two]",
}
_NUMBERS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}
_LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "needs at least {min_length}",
    "too_long": "must have at most {max_length}",
}


def _quotes(value: object) -> str:
    return ": put it in quotes" if isinstance(value, bool | int | float) else ""


def _looks_like(kind: str, value: str) -> bool:
    pattern = {"int_type": r"[-+]?\d+", "float_type": r"[-+]?\d+(\.\d*)?", "bool_type": r"true|false"}
    return re.fullmatch(pattern[kind], value) is not None


def _choice(choices: list[str], value: object) -> str:
    listed = ", ".join(choices)
    import difflib  # memory of the parent process

    near = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    return f"must be one of {listed}" + (f" (did you mean {near[0]}?)" if near else "")


def _unknown_key(key: str, section: type[Section]) -> str:
    if section is Broker and re.search(r"pass|secret|token|credential", key, re.IGNORECASE):
        return "a secret must not be in this file: put it into a file of its own, named by password_file"
    known = [field.alias or name for name, field in section.model_fields.items()]
    import difflib  # memory of the parent process

    near = difflib.get_close_matches(key, known, 1)
    if near:
        return f"unknown key: did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(known)}"
