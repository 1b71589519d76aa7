"""docs/reference/configuration.md and the examples agree with the code: keys, types, defaults, meanings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from edgeslm.config.loader import config_schema, parse_config
from edgeslm.config.remote_stages import ChatServer
from edgeslm.config.route_sections import Route
from edgeslm.config.sandbox import Sandbox
from edgeslm.config.schema import Config, Example, Knowledge, Model, Task
from edgeslm.config.sections import (
    Audit,
    Broker,
    Control,
    Discovery,
    Journal,
    Limits,
    Metrics,
    Pool,
    Rollouts,
    Section,
    Signing,
    Tracing,
    Updates,
)
from edgeslm.config.task_kinds import ALLOWED, POSSIBLE
from edgeslm.config.web_sections import Api, Console, Teach
from tests.support.paths import ROOT

DOCS = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
KNOWLEDGE = (ROOT / "docs/guides/documents.md").read_text("utf-8")
CONSOLE = (ROOT / "docs/guides/console.md").read_text("utf-8")
TRAINING = (ROOT / "docs/guides/training.md").read_text("utf-8")
EXAMPLES = sorted((ROOT / "firmware-config/examples").glob("*.yaml"))

SECTIONS: dict[str, type[Section]] = {
    "The file": Config,
    "broker": Broker,
    "models": Model,
    "tasks": Task,
    "examples": Example,
    "openai": ChatServer,
    "knowledge": Knowledge,
    "routes": Route,
    "pool": Pool,
    "limits": Limits,
    "journal": Journal,
    "audit": Audit,
    "signing": Signing,
    "discovery": Discovery,
    "metrics": Metrics,
    "tracing": Tracing,
    "control": Control,
    "updates": Updates,
    "rollouts": Rollouts,
    "console": Console,
    "teach": Teach,
    "api": Api,
}
REQUIRED: dict[str, dict[str, Any]] = {
    "The file": {
        "node": "n",
        "broker": {"url": "mqtt://localhost"},
        "tasks": {"t": {"kind": "embed", "model": "m"}},
    },
    "broker": {"url": "mqtt://localhost"},
    "models": {"bundle": "/b"},
    "tasks": {},
    "examples": {"input": "a", "output": "b"},
    "openai": {"url": "https://llm.example.org/v1", "model": "m"},
    "knowledge": {"path": "/kb"},
    "routes": {"from": "a/b", "task": "t"},
    "pool": {"name": "p", "tasks": ["t"]},
    "limits": {},
    "journal": {},
    "audit": {},
    "signing": {"keys": ["/k"]},
    "discovery": {},
    "metrics": {},
    "tracing": {},
    "control": {},
    "updates": {},
    "rollouts": {"url": "https://hawkbit"},
    "console": {},
    "teach": {},
    "api": {},
}
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def type_in_words(schema: dict[str, Any]) -> str:
    """A key's JSON Schema -> the words of the column `type`."""
    if "$ref" in schema:
        return "mapping"
    if parts := schema.get("anyOf") or ("type" not in schema and schema.get("oneOf")):
        words = [type_in_words(part) for part in parts if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema.get("format") == "path":
        return "path"
    if schema.get("type") == "array":
        item = schema.get("items", {})
        return (
            "list of options"
            if "enum" in item
            else f"list of {type_in_words(item).replace(' or ', 's or ')}s"
        )
    if schema.get("type") == "object":
        return "mapping"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    word = TYPES[schema["type"]]
    if low is not None and high is not None:
        return f"{word}, {'above ' if 'exclusiveMinimum' in schema else ''}{low:g} to {high:.10g}"
    return word


def default_in_words(name: str, section: type[Section], schema: dict[str, Any]) -> str:
    if section.model_fields[name].is_required():
        return "required"
    if "default" not in schema:
        return "see below"
    default = schema["default"]
    if default in (None, [], {}):
        return "none"
    if isinstance(default, dict):
        return "its defaults"
    text = default if isinstance(default, str) else json.dumps(default)
    return f"`{text}`"


def table(heading: str) -> dict[str, list[str]]:
    """Rows of the first table below a heading: key -> the other cells."""
    found = re.search(rf"(?ms)^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", DOCS)
    assert found, f"no heading {heading}"
    rows: dict[str, list[str]] = {}
    for line in found[1].splitlines():
        if not line.startswith("|") and rows:
            break
        if line.startswith("| `"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def properties(section: type[Section]) -> dict[str, tuple[str, dict[str, Any]]]:
    schema = config_schema()
    node = schema if section is Config else schema["$defs"][section.__name__]
    names = {field.alias or name: name for name, field in section.model_fields.items()}
    return {key: (names[key], value) for key, value in node["properties"].items()}


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_documented_with_type_default_and_meaning(heading: str) -> None:
    section = SECTIONS[heading]
    expected = {
        key: [type_in_words(schema), default_in_words(name, section, schema), schema["description"]]
        for key, (name, schema) in properties(section).items()
    }
    assert {key: cells[:3] for key, cells in table(heading).items()} == expected


@pytest.mark.parametrize(
    ("heading", "key"), [(heading, key) for heading in SECTIONS for key in table(heading)]
)
def test_the_example_of_every_key_is_valid(heading: str, key: str) -> None:
    example = yaml.safe_load(table(heading)[key][3].strip("`"))
    assert list(example) == [key]
    SECTIONS[heading].model_validate_json(json.dumps({**REQUIRED[heading], **example}))


def test_the_options_of_each_kind_are_documented() -> None:
    rows = {kind: [re.findall(r"`(\w+)`", cell) for cell in cells] for kind, cells in table("allow").items()}
    expected = {
        kind: [list(ALLOWED[kind]), [option for option in POSSIBLE[kind] if option not in ALLOWED[kind]]]
        for kind in ALLOWED
    }
    assert rows == expected


def test_the_filters_of_templates_are_documented() -> None:
    sentence = re.search(r"(?s)There are the filters (.*?), Jinja's\s+tests", DOCS)
    assert sentence
    known = {name for name in Sandbox(str).filters if not name.startswith("_")} - {"d"}
    assert set(re.findall(r"`(\w+)`", sentence[1])) == known


def yaml_blocks() -> list[str]:
    own_task = TRAINING.partition("### A node's own task\n")[2].partition("\n### ")[0]
    texts = (DOCS, KNOWLEDGE, CONSOLE, own_task)
    return [block for text in texts for block in re.findall(r"(?ms)^```yaml\n(.*?)^```", text)]


def test_there_are_yaml_blocks_to_check() -> None:
    assert len(yaml_blocks()) >= 3


@pytest.mark.parametrize("block", yaml_blocks())
def test_every_yaml_block_of_the_docs_parses(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTNAME", "press-hall-4")
    data = yaml.safe_load(block)
    if "node" not in data:  # a part of a file: completed with what else it needs
        missing = {"node": "n", "broker": {"url": "mqtt://localhost"}, "models": {"small": {"bundle": "/b"}}}
        tasks = {"any": {"kind": "generate", "model": "small"}}
        for route in data.get("routes", ()):
            tasks[route.get("task", "any")] = {"kind": "generate", "model": "small"}
        named = {name for task in data.get("tasks", {}).values() for name in task.get("knowledge", ())}
        if named:
            missing["knowledge"] = {name: {"path": "/kb"} for name in named}
        data = {**missing, "tasks": tasks, **data}
        block = yaml.safe_dump(data)
    parse_config(block, "docs/reference/configuration.md")


@pytest.mark.parametrize("block", re.findall(r"(?ms)^```python\n(.*?)^```", KNOWLEDGE))
def test_every_python_block_about_documents_compiles(block: str) -> None:
    compile(block, "docs/guides/documents.md", "exec")


def test_the_page_of_larger_models_has_a_whole_configuration() -> None:
    page = (ROOT / "docs/guides/larger-models.md").read_text("utf-8")
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", page)
    assert parse_config(block).tasks["manual"].remote is not None


def test_there_are_example_files() -> None:
    assert [file.name for file in EXAMPLES] == [
        *(
            "first.yaml",
            "frigate.yaml",
            "home-assistant.yaml",
            "manuals.yaml",
            "press-hall.yaml",
            "sensors.yaml",
        )
    ]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.name))
def test_every_example_file_parses_and_fits_the_schema(file: Path) -> None:
    text = file.read_text("utf-8")
    parse_config(text, file.name)
    Draft202012Validator(config_schema()).validate(yaml.safe_load(text))
