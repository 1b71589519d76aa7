"""benchmarks/: its folders hold front doors, each with a question, a help text and a last figure."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.benchmarks.scripts import BENCHMARKS

FOLDERS = ("speed", "quality", "robustness", "fleet")
DOORS = sorted(file for folder in FOLDERS for file in (BENCHMARKS / folder).glob("*.py"))
README = (BENCHMARKS / "README.md").read_text("utf-8")
HELP = """
import runpy, sys
for name in ("torch", "transformers"):
    sys.modules[name] = None
sys.argv = [sys.argv[1], "--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def door_name(file: Path) -> str:
    return file.relative_to(BENCHMARKS).as_posix()


def test_the_folders_hold_front_doors_alone() -> None:
    names = {entry.name for entry in BENCHMARKS.iterdir()} - {"__pycache__"}
    assert names == {*FOLDERS, "lib", "data", "README.md", "RESULTS.md", "LOG.md"}
    for folder in FOLDERS:
        files = {entry for entry in (BENCHMARKS / folder).iterdir() if entry.name != "__pycache__"}
        assert files <= set(DOORS)


@pytest.mark.parametrize("file", DOORS, ids=door_name)
def test_a_front_door_asks_its_question_and_imports_lib_alone(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    question = (ast.get_docstring(tree) or "").splitlines()[0]
    assert question.endswith("?")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks"):
            assert (node.module or "").startswith("benchmarks.lib"), f"{file}:{node.lineno}: {node.module}"


def test_lib_imports_no_front_door_and_every_part_of_it_is_used() -> None:
    used: set[str] = set()
    for file in sorted(BENCHMARKS.glob("*/*.py")):
        text = file.read_text("utf-8")
        if file.parent.name == "lib":
            assert not re.search(rf"benchmarks\.({'|'.join(FOLDERS)})", text), file
        used |= {name for name in re.findall(r"\w+", text) if name != file.stem}
    unused = {file.stem for file in (BENCHMARKS / "lib").glob("*.py")} - used
    assert not unused


@pytest.mark.parametrize("file", DOORS, ids=door_name)
def test_a_front_door_shows_its_help_without_torch(file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, str(file)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert file.name in done.stdout


@pytest.mark.parametrize("file", DOORS, ids=door_name)
def test_a_front_door_has_its_question_and_a_figure_in_the_readme(file: Path) -> None:
    rows = [line.strip("|").split("|") for line in README.splitlines() if f"`{door_name(file)}" in line]
    assert rows, f"benchmarks/README.md lacks {door_name(file)}"
    for question, _, minutes, figure, date in rows:
        assert question.strip()
        assert re.search(r"\d", minutes) and re.search(r"\d", figure), door_name(file)
        assert re.search(r"20\d\d-\d\d", date), door_name(file)


def test_the_readme_names_no_front_door_that_is_gone() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/\w+\.py)", README))
    assert named == {door_name(file) for file in DOORS}
