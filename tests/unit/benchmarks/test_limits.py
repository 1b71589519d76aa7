"""The benchmark of a node within limits: its configuration and its long prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from benchmarks.lib.limits import configuration, full_prompt
from edgeslm.config.loader import parse_config


def test_a_second_model_takes_turns_with_the_first(tmp_path: Path) -> None:
    args = argparse.Namespace(
        bundle=tmp_path / "a", encoder=tmp_path / "e", other=tmp_path / "b", threads="auto"
    )
    config = parse_config(
        yaml.safe_dump({"node": "n", "broker": {"url": "mqtt://localhost"}, **configuration(args)})
    )
    assert {name: model.keep_alive_s for name, model in config.models.items()} == {
        "small": 3600,
        "encoder": None,
        "other": 3600,
    }
    args.other = args.encoder = None
    assert configuration(args)["models"] == {"small": {"bundle": str(tmp_path / "a"), "threads": "auto"}}


def test_a_prompt_that_fills_the_context() -> None:
    assert len(full_prompt((334, 634), 8134).split()) == 2700, "34 tokens of template, 3 a word"
