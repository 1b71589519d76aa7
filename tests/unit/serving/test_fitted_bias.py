"""Fitted label biases: what they belong to, and a damaged file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.calibration import LabelledBias
from edgeslm.config.loader import Config
from edgeslm.config.loader import Task as TaskSection
from edgeslm.serving.fitted_bias import (
    FittedBias,
    bias_file,
    bias_key,
    load_biases,
    save_biases,
    use_bias,
)
from edgeslm.tasks.classify import Classify

COUNTS = {"rows": 1, "right": 1, "right_with": 1}
BIAS = LabelledBias({"normal": 0.9, "critical": 0.1}, 12, 5, 9)


def section(**more: Any) -> TaskSection:
    fields = {"kind": "classify", "model": "small", "labels": {"normal": "", "critical": ""}, **more}
    return TaskSection.model_validate(fields, strict=False)


def configuration(folder: Path) -> Config:
    return Config.model_construct(node="hall", state_dir=folder)


def test_a_bias_belongs_to_a_model_labels_and_prompt() -> None:
    key = bias_key(section(), "sha256:1")
    assert key == bias_key(section(threshold=0.5), "sha256:1")
    others = [
        bias_key(section(), "sha256:2"),
        bias_key(section(labels={"normal": "all is well", "critical": ""}), "sha256:1"),
        bias_key(section(labels={"critical": "", "normal": ""}), "sha256:1"),
        bias_key(section(instruction="How urgent is it?"), "sha256:1"),
        bias_key(section(examples=[{"input": "x", "output": "normal"}]), "sha256:1"),
        bias_key(section(overflow="head"), "sha256:1"),
    ]
    assert len({key, *others}) == 7


def test_only_a_bias_of_these_labels_is_used() -> None:
    task = Classify("triage", section())
    part = LabelledBias({"normal": 1.0}, 12, 5, 9)  # the file was changed by hand
    for bias, key, used in ((BIAS, "k", BIAS), (BIAS, "other", None), (part, "k", None)):
        use_bias(task, FittedBias("k", "m", bias), key)
        assert task.fitted == used
    none = LabelledBias(None, 12, 5, 5)
    use_bias(task, FittedBias("k", "m", none), "k")
    assert task.fitted == none


def test_the_file_is_read_back(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert load_biases(config) == {}
    kept = {"triage": FittedBias("k", "m", BIAS), "mood": FittedBias("k", "m", LabelledBias(None, 10, 8, 8))}
    save_biases(config, kept)
    assert load_biases(config) == kept and bias_file(config).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"key": "k", "mark": "m"},
        {"key": "k", "mark": "m", "bias": {"biases": None}},
        {"key": "k", "mark": "m", "bias": {"biases": {"normal": 0}, "rows": 1, "right": 1, "right_with": 1}},
        {"key": "k", "mark": "m", "bias": {"biases": ["normal"], "rows": 1, "right": 1, "right_with": 1}},
        {
            "key": "k",
            "mark": "m",
            "bias": {"biases": {"normal": "x"}, "rows": 1, "right": 1, "right_with": 1},
        },
    ],
)
def test_a_damaged_file_has_no_bias(entry: Any, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    bias_file(config).write_text(json.dumps({"triage": entry}))
    assert load_biases(config) == {}
    bias_file(config).write_text("{")
    assert load_biases(config) == {}
