"""Teaching in front of the user, with a stand-in for the command that the end-to-end tests really call."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from edgeslm.cli.demo.material import LabelledMessage
from edgeslm.cli.demo.teaching import teach
from edgeslm.errors import EdgeslmError

ROWS = [LabelledMessage("WIN £100", "spam"), LabelledMessage("ok lar", "ham")]


def replace_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """The Python that runs ``-m edgeslm_export`` is a program that runs ``code``."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport json, sys\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_it_calls_the_command_that_a_user_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "called"
    code = f"open({str(called)!r}, 'w').write(json.dumps(sys.argv[1:]))"
    replace_export(monkeypatch, tmp_path, code + """; print('words\\n{"accuracy": 0.94}')""")
    trained = teach(tmp_path, "spam", {"ham": "", "spam": "advertising"}, ROWS, tmp_path / "encoder")
    assert (trained.task, trained.rows, trained.accuracy) == ("spam", 2, 0.94)
    assert trained.folder == tmp_path / "learned/spam"
    no_working_directory, _, module, tune, description, data, out, *options = json.loads(called.read_text())
    assert no_working_directory == "-P"
    assert (module, tune, out) == ("edgeslm_export", "tune", str(trained.folder))
    assert options == ["--method", "head", "--replace", "--encoder", str(tmp_path / "encoder"), "--json"]
    task = yaml.safe_load(Path(description).read_text())
    assert task == {"name": "spam", "kind": "classify", "labels": {"ham": "", "spam": "advertising"}}
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    assert rows == [{"text": "WIN £100", "label": "spam"}, {"text": "ok lar", "label": "ham"}]


def test_a_failure_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_export(monkeypatch, tmp_path, "sys.exit('some progress\\nedgeslm-export: no rows')")
    with pytest.raises(EdgeslmError, match="tune failed: no rows"):
        teach(tmp_path, "spam", {}, ROWS, tmp_path)


def test_without_the_build_machine_s_part_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(EdgeslmError, match=r"pip install '\.\[heads\]' in a clone"):
        teach(tmp_path, "spam", {}, ROWS, tmp_path)
