"""Optimum's environment: made once, made again when half-made, borrowed packages left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeslm_export.jobs import optimum_env

from edgeslm.errors import ExportError


class FakeTools:
    """Stands in for venv and pip: notes the commands, makes what venv would make."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.pip_fails = False

    def __call__(self, command: list[str], debug: bool) -> None:
        self.commands.append(command)
        if "venv" in command:
            (Path(command[-1]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
            (Path(command[-1]) / "bin").mkdir()
        elif self.pip_fails:
            raise ExportError("pip failed")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTools:
    fake = FakeTools()
    monkeypatch.setattr(optimum_env, "_run", fake)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return fake


def test_it_is_made_once_and_said_before(tools: FakeTools) -> None:
    said: list[str] = []
    python = optimum_env.optimum_python(said.append)
    assert optimum_env.optimum_python(said.append) == python
    assert len(said) == 1
    assert optimum_env.DOWNLOAD in said[0]
    assert len(tools.commands) == 2
    asked = ["--no-deps", "--require-hashes", "--requirement", str(optimum_env.LIST)]
    assert tools.commands[1][-len(asked) :] == asked


def test_a_half_made_one_is_made_again(tools: FakeTools) -> None:
    tools.pip_fails = True
    with pytest.raises(ExportError):
        optimum_env.optimum_python(lambda sentence: None)
    tools.pip_fails = False
    python = optimum_env.optimum_python(lambda sentence: None)
    assert len(tools.commands) == 4
    assert (python.parent.parent / "ready").is_file()


def test_large_packages_are_linked_outside_its_site_packages(tools: FakeTools) -> None:
    folder = optimum_env.optimum_python(lambda sentence: None).parent.parent
    site = next(folder.glob("lib/python3*/site-packages"))
    assert [path.name for path in site.iterdir()] == ["lent.pth"]
    assert (site / "lent.pth").read_text().strip() == str(folder / "lent")
    for name in optimum_env.BORROWED:
        assert (folder / "lent" / name).is_symlink()


def test_other_versions_get_another_environment(tools: FakeTools, tmp_path: Path) -> None:
    first = optimum_env.optimum_python(lambda sentence: None)
    other = tmp_path / "optimum.txt"
    other.write_text(optimum_env.LIST.read_text() + "something==1 --hash=sha256:00\n")
    assert optimum_env.optimum_python(lambda sentence: None, packages=other) != first


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(
        ExportError,
        match=r"surely-not-installed is missing; pip install '\.\[export\]' in a clone",
    ):
        optimum_env.borrowed_distributions(("surely-not-installed",))
