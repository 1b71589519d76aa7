from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from edgeslm.cli.main import main

FILE = "pool: triage\nbroker: {url: mqtt://localhost}\n"


def test_a_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dispatch.yaml"
    file.write_text(FILE)
    assert main(["dispatch", str(file), "--check"]) == 0
    assert capsys.readouterr().out == f"{file}: no errors\n"
    file.write_text(FILE + "lease: 3\n")
    assert main(["dispatch", str(file)]) == 1
    assert capsys.readouterr().err == f"{file}:3: lease: unknown key: did you mean lease_s?\n"


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dispatch", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["pool", "broker"]


def test_without_a_file_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dispatch"]) == 2
    assert "name the configuration file" in capsys.readouterr().err


def test_a_state_folder_that_is_none_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dns", None)  # what the command does too: undone at the end
    (tmp_path / "state").write_text("no folder")
    file = tmp_path / "dispatch.yaml"
    file.write_text(FILE + "state_dir: state\n")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["dispatch", str(file)]) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "name a folder to write to as state_dir" in capsys.readouterr().err
