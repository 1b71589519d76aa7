"""benchmarks/quality.py: one front door, each command with a script behind it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    return load_scripts("quality")["quality"]


def test_every_command_is_described_and_has_a_script(quality: ModuleType) -> None:
    about = quality.__doc__ or ""
    listed = {
        name.strip() for line in about.splitlines() if line.endswith(".py)") for name in line[:19].split(",")
    }
    assert listed == set(quality.COMMANDS)
    for module, _ in quality.COMMANDS.values():
        assert (BENCHMARKS / f"{module}.py").is_file()


class FakeScript:
    """In the place of a script's module."""

    def __init__(self) -> None:
        self.arguments: list[str] = []

    def main(self, argv: list[str]) -> None:
        self.arguments = argv


@pytest.mark.parametrize(
    ("command", "module", "handed"),
    [
        ("sms", "teaching", ["sms", "--rows", "50"]),
        ("house", "skills", ["house", "--rows", "50"]),
        ("flips", "flips", ["--rows", "50"]),
        ("quantization", "divergence", ["--rows", "50"]),
    ],
)
def test_a_command_is_handed_to_its_script(
    quality: ModuleType, monkeypatch: pytest.MonkeyPatch, command: str, module: str, handed: list[str]
) -> None:
    script = FakeScript()
    monkeypatch.setitem(sys.modules, module, script)
    quality.main([command, "--rows", "50"])
    assert script.arguments == handed


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_all_are_shown(
    quality: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    quality.main(arguments)
    assert "benchmarks/quality.py COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_refused(quality: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no command 'speed'; there are: quantization, trec, sms"):
        quality.main(["speed"])


def test_each_script_shows_its_help() -> None:
    """In one process, since each imports the same libraries."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport quality\n"
        "for name in quality.COMMANDS:\n"
        "    try: quality.main([name, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0, name"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(BENCHMARKS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("usage:") == 9
