"""benchmarks/lib/commands.py, and the front doors with commands: each command has its module and its help."""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts

DOORS = sorted(
    file.stem for file in BENCHMARKS.glob("[!l]*/*.py") if "run_subcommand(" in file.read_text("utf-8")
)


class FakeModule:
    """In the place of a command's module."""

    def main(self) -> int:
        self.arguments = list(sys.argv)
        return 3


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    return load_scripts("commands")["commands"]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front door that runs."""
    monkeypatch.setattr(sys, "argv", ["quality/training.py"])


@pytest.mark.parametrize(
    ("command", "handed"), [("sms", ["sms", "--rows", "50"]), ("flips", ["--rows", "50"])]
)
def test_a_command_is_handed_to_its_module(
    commands: ModuleType,
    training: None,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    handed: list[str],
) -> None:
    module = FakeModule()
    monkeypatch.setitem(sys.modules, "benchmarks.lib.fake", module)
    with pytest.raises(SystemExit) as end:
        commands.run_subcommand("", {"sms": "fake sms", "flips": "fake"}, [command, "--rows", "50"])
    assert end.value.code == 3
    assert module.arguments == [f"quality/training.py {command}", *handed]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_all_are_shown(
    commands: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    commands.run_subcommand("What?\n", {"flips": "flips"}, arguments)
    assert capsys.readouterr().out == "What?\n"


def test_an_unknown_command_is_refused(commands: ModuleType, training: None) -> None:
    with pytest.raises(SystemExit, match=r"training.py: no command 'speed'; there are: trec, sms"):
        commands.run_subcommand("", {"trec": "teaching", "sms": "teaching"}, ["speed"])


@pytest.mark.parametrize("door", DOORS)
def test_every_command_is_described(door: str) -> None:
    module = load_scripts(door)[door]
    told = re.findall(
        r"(?m)^    ([\w-]+(?:, [\w-]+)*)   ? *\S", (module.__doc__ or "").partition("COMMAND")[2]
    )
    assert {name for names in told for name in names.split(", ")} == module.COMMANDS.keys()


HELP = """
import sys
sys.path.append(sys.argv[1])
for name in ("torch", "transformers"):
    sys.modules[name] = None
from benchmarks.lib.commands import run_subcommand
from benchmarks.{folder}.{door} import COMMANDS
for command in COMMANDS:
    sys.argv = ["{door}.py"]
    try:
        run_subcommand("", COMMANDS, [command, "--help"])
    except SystemExit as end:
        assert end.code == 0, (command, end.code)
"""


@pytest.mark.parametrize("door", DOORS)
def test_every_command_shows_its_help(door: str) -> None:
    """In one process, since all import the same libraries; none of them loads what runs models."""
    (file,) = BENCHMARKS.glob(f"*/{door}.py")
    code = HELP.format(folder=file.parent.name, door=door)
    command = [sys.executable, "-c", code, str(BENCHMARKS.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(f"usage: {door}.py ") == len(load_scripts(door)[door].COMMANDS)
