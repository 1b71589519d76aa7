"""Teaching in front of the user, with a stand-in for the command that the end-to-end tests really call."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm.cli.demo.material import LabelledMessage
from edgeslm.cli.demo.teaching import teach
from edgeslm.errors import EdgeslmError

ROWS = [LabelledMessage("WIN £100", "spam"), LabelledMessage("ok lar", "ham")]


def test_it_calls_the_command_that_a_user_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: Sequence[str], **how: Any) -> Any:
        calls.append(list(command))
        return subprocess.CompletedProcess(command, 0, 'words\n{"accuracy": 0.94}\n', "")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", run)
    trained = teach(tmp_path, "spam", {"ham": "", "spam": "advertising"}, ROWS, tmp_path / "encoder")
    assert (trained.task, trained.rows, trained.accuracy) == ("spam", 2, 0.94)
    assert trained.folder == tmp_path / "learned/spam"
    ((_, no_working_directory, _, module, tune, description, data, out, *options),) = calls
    assert no_working_directory == "-P"
    assert (module, tune, out) == ("edgeslm_export", "tune", str(trained.folder))
    assert options == ["--encoder", str(tmp_path / "encoder"), "--json"]
    task = yaml.safe_load(Path(description).read_text())
    assert task == {"name": "spam", "kind": "classify", "labels": {"ham": "", "spam": "advertising"}}
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    assert rows == [{"text": "WIN £100", "label": "spam"}, {"text": "ok lar", "label": "ham"}]


def test_a_failure_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "some progress\nedgeslm-export: no rows\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(EdgeslmError, match="teaching spam failed: edgeslm-export: no rows"):
        teach(tmp_path, "spam", {}, ROWS, tmp_path)


def test_without_the_build_machine_s_part_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeslmError, match=r"pip install 'edgeslm\[heads\]'"):
        teach(tmp_path, "spam", {}, ROWS, tmp_path)
