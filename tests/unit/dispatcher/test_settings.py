from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from edgeslm.config.sections import Limits
from edgeslm.dispatcher.settings import (
    DispatcherSettings,
    DispatchLimits,
    Wanted,
    load_settings,
    parse_settings,
    settings_schema,
)
from edgeslm.errors import ConfigError
from tests.support.paths import ROOT

LEAST = "pool: triage\nbroker: {url: mqtt://localhost}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text)
    return caught.value.problems


def test_pool_and_broker_are_enough() -> None:
    settings = parse_settings(LEAST)
    assert settings.tasks is None and settings.limits.node_queue == 4
    assert settings.replies == ("edgeslm/v1/+/res/#", "edgeslm/v1/pool/+/res/#")
    assert parse_settings(LEAST + "prefix: site").replies == ("site/v1/+/res/#", "site/v1/pool/+/res/#")


def test_every_mistake_is_told_with_its_line() -> None:
    assert problems(LEAST + "tasks: {label: {kind: clasify, model: 1f3a}}\nlimts: {}\n") == [
        "config:3: tasks.label.kind: must be one of classify, extract, answer, summarize, generate, embed, "
        "search (did you mean classify?)",
        "config:3: tasks.label.model: must be sha256: and the digest of a bundle, or its first digits, at "
        "least 4",
        "config:4: limts: unknown key: did you mean limits?",
    ]
    assert problems("") == ["config:1: file: empty: write at least pool and broker"]
    assert "password_file" in problems("pool: a\nbroker: {url: mqtt://h, password: x}\n")[0]
    assert "pool is reserved for pools' topics" in problems("pool: pool\nbroker: {url: mqtt://h}\n")[0]


def test_the_schema_takes_what_is_taken(tmp_path: Path) -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    whole = {"pool": "triage", "broker": {"url": "mqtt://h"}, "limits": {"node_queue": 2}}
    jsonschema.validate(whole, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**whole, "limts": {}}, schema)


def test_the_example_is_one_and_stands_in_the_documents() -> None:
    docs = ROOT / "docs"
    example = (docs / "examples/dispatch.yaml").read_text("utf-8")
    assert parse_settings(example).pool == "triage"
    assert f"```yaml examples/dispatch.yaml\n{example}```" in (docs / "guides/pools.md").read_text("utf-8")


def test_every_key_is_in_the_documents() -> None:
    page = (ROOT / "docs/guides/pools.md").read_text("utf-8")
    for section in (DispatcherSettings, Wanted, DispatchLimits):
        own = set(section.model_fields) - set(Limits.model_fields)
        for name in own:
            assert f"`{name}`" in page, f"docs/guides/pools.md says nothing of {section.__name__}.{name}"


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    file = tmp_path / "dispatch.yaml"
    file.write_text(LEAST + "state_dir: state\n")
    assert load_settings(file).state_dir == tmp_path / "state"
