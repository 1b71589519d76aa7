"""The dispatcher's configuration file: parses YAML into frozen settings, or lists every error in it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from edgeslm.config import yaml_source
from edgeslm.config.diagnostics import problems_of, read_text, sentence_of
from edgeslm.config.fields import FilePath, Name, TopicFilter, node_name, topic_prefix
from edgeslm.config.schema import default_state_dir
from edgeslm.config.sections import Broker, Journal, Limits, Section
from edgeslm.config.task_kinds import Kind
from edgeslm.config.yaml_source import YamlDocument, YamlProblem, read_document
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX

LEAST_KEYS = "pool and broker"
PAUSES_S = (0.5, 5.0)
"""First and longest pause between attempts to reconnect, in seconds."""


def _own_name() -> str:
    return socket.gethostname()[:64]


def _digest(value: str) -> str:
    found = value.removeprefix("sha256:")
    if found == value or not 4 <= len(found) <= 64 or set(found) - set("0123456789abcdef"):
        raise ValueError("must be sha256: and the digest of a bundle, or its first digits, at least 4")
    return value


class Wanted(Section):
    """Requirements that a node must meet to get the requests of a task."""

    kind: Kind | None = Field(default=None, description="Kind that the task must be of at a node")
    model: Annotated[str, AfterValidator(_digest)] | None = Field(
        default=None,
        description="Digest of the bundle that must serve it there, or how it begins: `sha256:1f3a`",
    )


class DispatchLimits(Limits):
    """Limits of the dispatcher: the same limits as a node has, and the maximum number of requests per
    node."""

    node_queue: int = Field(
        default=4, ge=1, le=256, description="Requests given to one node at a time; the others wait here"
    )


class DispatcherSettings(Section):
    """The whole configuration file of a dispatcher."""

    pool: Annotated[str, AfterValidator(node_name)] = Field(
        description="Name of the pool: `a-z`, `0-9` and `-`"
    )
    prefix: Annotated[str, AfterValidator(topic_prefix)] = Field(
        default=DEFAULT_PREFIX, description="First level (or levels) of the topics"
    )
    broker: Broker = Field(description="The MQTT broker and how to log in")
    name: str = Field(
        default_factory=_own_name,
        min_length=1,
        max_length=64,
        description="Name of this dispatcher among those of the pool; the machine's if left out",
    )
    tasks: Mapping[Name, Wanted] | None = Field(
        default=None,
        min_length=1,
        description="Tasks that the pool does and what each needs of a node; if left out all that members do",
    )
    limits: DispatchLimits = Field(default=DispatchLimits(), description="What the dispatcher takes at most")
    replies: tuple[TopicFilter, ...] = Field(
        default_factory=lambda data: (
            f"{data.get('prefix', DEFAULT_PREFIX)}/v1/+/res/#",
            f"{data.get('prefix', DEFAULT_PREFIX)}/v1/pool/+/res/#",
        ),
        description="Topic filters within which a request may choose its reply topic",
    )
    lease_s: float = Field(
        default=10.0,
        ge=1,
        le=3600,
        description="Seconds without a word after which another dispatcher of the pool takes over",
    )
    journal: Journal = Field(
        default=Journal(), description="What of messages stays on this disk, and whether it is encrypted"
    )
    state_dir: FilePath = Field(
        default_factory=default_state_dir, description="Folder for what must survive a restart"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important log lines to write; only `debug` may show texts"
    )


_SECTIONS: Mapping[str, type[Section]] = {
    "broker": Broker,
    "tasks": Wanted,
    "limits": DispatchLimits,
    "journal": Journal,
}


def load_settings(path: Path) -> DispatcherSettings:
    """Loads a dispatcher's configuration file. A relative path in the file is relative to the file's folder.

    :raises ConfigError: the file is invalid; the error lists every problem as ``file:line: key: sentence``.
    """
    return parse_settings(read_text(path), str(path), path.absolute().parent)


def parse_settings(text: str, where: str = "config", folder: Path | None = None) -> DispatcherSettings:
    """:raises ConfigError: invalid text; the error lists every problem as ``file:line: key: sentence``."""
    read = read_document(text, LEAST_KEYS)
    settings = _validate(read, folder) if isinstance(read.data, dict) else None
    if settings is None or read.problems:
        raise problems_of(read, where)
    return settings


def settings_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the dispatcher's configuration file, for editors and ``edgeslm dispatch
    --schema``."""
    schema = DispatcherSettings.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgeslm dispatcher",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _validate(read: YamlDocument, folder: Path | None) -> DispatcherSettings | None:
    """Validates the settings. If the settings are invalid, appends the errors to ``read.problems`` and
    returns None."""
    try:
        return DispatcherSettings.model_validate_json(json.dumps(read.data), context={"folder": folder})
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            if entry["type"] == "default_factory_not_called":
                continue
            path: yaml_source.Path = tuple(part for part in entry["loc"] if part != "[key]")
            section = _SECTIONS.get(str(path[0]), DispatcherSettings) if len(path) > 1 else DispatcherSettings
            read.problems.append(YamlProblem(read.line(path), path, sentence_of(entry, path, section)))
        return None
