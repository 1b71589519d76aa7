"""What the tests run on: the installed wheel, in this process and its children, or they don't start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.installed import Installed
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e

WHERE = "import edgeslm, edgeslm_export; print(edgeslm.__file__, edgeslm_export.__file__)"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WHERE!r}], check=True)"


def run(
    installed: Installed, *arguments: object, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [str(installed.python), *map(str, arguments)]
    environment = {**installed.environment, **environment}
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)


def collect(installed: Installed, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest as ``scripts/test`` starts it, on one file."""
    options = [
        "-o",
        "pythonpath=",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ROOT,
        "-c",
        ROOT / "pyproject.toml",
    ]
    file = ROOT / "tests/unit/protocol/test_topic_filters.py"
    return run(installed, "-P", "-m", "pytest", *options, "--collect-only", file, cwd=cwd, **environment)


@pytest.mark.parametrize("code", [WHERE, CHILD], ids=["process", "child"])
def test_both_packages_lie_in_site_packages(installed: Installed, code: str, tmp_path: Path) -> None:
    done = run(installed, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (packages,) = installed.python.parents[1].glob("lib/python*/site-packages")
    assert [Path(file).parents[1] for file in done.stdout.split()] == [packages, packages]


def test_with_the_checkout_on_the_path_the_run_fails(installed: Installed, tmp_path: Path) -> None:
    done = collect(installed, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = collect(installed, tmp_path, PYTHONPATH=str(ROOT))
    assert refused.returncode == 4
    assert f"edgeslm would come from {ROOT}/edgeslm/__init__.py, not from the wheel in" in refused.stderr


def test_without_the_wheel_the_run_fails(tmp_path: Path) -> None:
    refused = collect(Installed(ROOT / ".venv/bin/python"), tmp_path)
    assert refused.returncode == 4
    assert "edgeslm isn't the installed wheel's" in refused.stderr


def test_a_child_in_the_checkout_fails(installed: Installed) -> None:
    """``-m`` looks in the current folder first."""
    refused = run(installed, "-m", "edgeslm", "--version", cwd=ROOT)
    assert refused.returncode != 0
    assert "not from the wheel" in refused.stderr


def test_an_edit_is_in_the_next_wheel_and_a_removed_module_is_not(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    others = shutil.ignore_patterns(".*", "tests", "docs", "benchmarks", "build", "dist", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=others)
    (clone / "tests/support").mkdir(parents=True)
    shutil.copy(ROOT / "tests/support/wheel_guard.py", clone / "tests/support")
    (clone / ".venv").symlink_to(ROOT / ".venv")
    package = clone / "edgeslm"
    (package / "passing.py").write_text("")

    def build() -> str:
        done = subprocess.run([clone / "scripts/wheel"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{clone}/.edgeslm/wheel/bin/python\n"
        return done.stderr

    assert build().startswith("wheel: built and installed in ")
    assert build() == ""
    installed = Installed(clone / ".edgeslm/wheel/bin/python")
    assert run(installed, "-c", "import edgeslm.passing", cwd=tmp_path).returncode == 0
    (package / "passing.py").unlink()
    with (package / "__init__.py").open("a") as file:
        file.write("EDITED = True\n")
    assert build() != ""
    assert run(installed, "-c", "import edgeslm; edgeslm.EDITED", cwd=tmp_path).returncode == 0
    assert run(installed, "-c", "import edgeslm.passing", cwd=tmp_path).returncode == 1
    assert {path.name for path in clone.iterdir()} & {"build", "edgeslm.egg-info"} == set()
