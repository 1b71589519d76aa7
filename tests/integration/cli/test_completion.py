"""``edgeslm completion``: what Tab completes in a real bash, on a pseudo-terminal."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from edgeslm_export.cli import main as export_main

from edgeslm.cli import main as device_main
from edgeslm.cli.completion import SHELLS
from tests.support.apps import WAIT_S

PROMPT = "ready> "
READLINE = "set bell-style none\nset enable-bracketed-paste off\nset show-all-if-ambiguous on\n"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for program, module in (("edgeslm", "edgeslm"), ("edgeslm-export", "edgeslm_export")):
        command = [sys.executable, "-m", module, "completion", "bash"]
        script = subprocess.run(command, check=True, capture_output=True).stdout
        (folder / program).write_bytes(script)
    return folder


@pytest.fixture
def tab(scripts: Path, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Types a line and Tab; returns what bash shows then."""
    (tmp_path / "press hall.yaml").touch()
    (tmp_path / "inputrc").write_text(READLINE)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "INPUTRC": str(tmp_path / "inputrc"), "COLUMNS": "1000"}
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={**environment, "PS1": PROMPT},
        start_new_session=True,
    )
    os.close(theirs)

    def seen(until: str) -> str:
        text, give_up_at = "", time.monotonic() + WAIT_S
        while not text.endswith(until):
            assert time.monotonic() < give_up_at, text
            if select.select([ours], [], [], 0.1)[0]:
                text += os.read(ours, 65536).decode()
        return text

    def tab(line: str) -> str:
        return typed(f"{line}\t\x1b#")  # Escape and # make the line a comment, so that nothing runs

    def typed(keys: str) -> str:
        os.write(ours, keys.encode())
        return seen(PROMPT)

    seen(PROMPT)
    typed(f"source {scripts}/edgeslm; source {scripts}/edgeslm-export\n")
    yield tab
    os.close(ours)
    shell.kill()
    shell.wait()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("edgeslm doc", "edgeslm doctor "),
        ("edgeslm doctor --use a", "edgeslm doctor --use answers "),
        ("edgeslm doctor --use=a", "edgeslm doctor --use=answers "),
        ("edgeslm doctor --config pre", r"edgeslm doctor --config press\ hall.yaml "),
        ("edgeslm run pre", r"edgeslm run press\ hall.yaml "),
        ("edgeslm run --deb", "edgeslm run --debug "),
        ("edgeslm models li", "edgeslm models list "),
        ("edgeslm models list --js", "edgeslm models list --json "),
        ("edgeslm request triage --bro", "edgeslm request triage --broker "),
        ("edgeslm completion z", "edgeslm completion zsh "),
        ("edgeslm-export tu", "edgeslm-export tune "),
        ("edgeslm-export tune --rep", "edgeslm-export tune --replace "),
        ("edgeslm-export model pre", r"edgeslm-export model press\ hall.yaml "),
    ],
)
def test_tab(line: str, completed: str, tab: Callable[[str], str]) -> None:
    assert completed in tab(line)


def test_a_value_that_is_no_file_completes_nothing(tab: Callable[[str], str]) -> None:
    assert "hall" not in tab("edgeslm request --broker pre")


def test_all_commands_are_listed(tab: Callable[[str], str]) -> None:
    assert {"run", "teach", "top", "completion", "demo"} <= set(tab("edgeslm ").split())


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("main", [device_main, export_main])
def test_each_command_and_option_is_in_each_script(
    main: ModuleType, shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["completion", shell]) == 0
    script = capsys.readouterr().out

    def check(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, part in action.choices.items():
                    assert re.search(rf"\b{name}\b", script)
                    check(part)
            elif action.help != argparse.SUPPRESS:
                names = [re.escape(name.lstrip("-")) for name in action.option_strings]
                assert all(re.search(rf"(-l |-s |-){name}[ \")|]", script) for name in names), names

    check(main._parser())
