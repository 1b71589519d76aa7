"""What is installed is what is in the tree: a wheel is built and its contents are compared with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
import yaml

from tests.support.paths import ROOT

FOLDERS = {
    "edgeslm": "edgeslm",
    "export": "edgeslm_export",
    "firmware-config/boards": "edgeslm/boards",
    "firmware-config/mosquitto": "edgeslm/mosquitto",
}
"""Folders of the tree, and where a wheel has them."""

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "requirements", *FOLDERS)
"""What the wheel is built from."""


def copy_sources(folder: Path) -> Path:
    copy = folder / "source"
    for name in SOURCES:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-R", str(ROOT / name), str(copy / name)], check=True)
    return copy


def build_wheel(folder: Path, source: Path | None = None) -> Path:
    """The wheel of ``source``, by default of a copy of this tree, built in ``folder`` without a network."""
    copy = source or copy_sources(folder)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--disable-pip-version-check", "--wheel-dir", str(folder), str(copy)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("edgeslm-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


def files(archive: zipfile.ZipFile) -> set[str]:
    """But for the wheel's own notes."""
    return {name for name in archive.namelist() if ".dist-info/" not in name}


def expected() -> Iterator[str]:
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(installed / path.relative_to(ROOT / folder))
    yield from (f"edgeslm/requirements/{path.name}" for path in ROOT.glob("requirements/device*.txt"))


def test_it_holds_each_module_and_data_file_of_the_tree(wheel: zipfile.ZipFile) -> None:
    held = files(wheel)
    assert sorted(set(expected()) - held) == [], "these are missing: setup.py, or package-data"
    assert sorted(held - set(expected())) == [], "these shouldn't be there"


def test_it_holds_what_used_to_be_forgotten(wheel: zipfile.ZipFile) -> None:
    """The list of packages kept by hand lacked one: a service couldn't start."""
    for name in (
        "edgeslm/dispatcher/__init__.py",
        "edgeslm/py.typed",
        "edgeslm/console/static/index.html",
        "edgeslm/boards/pi5-8gb.yaml",
        "edgeslm/mosquitto/strict.conf",
        "edgeslm/requirements/device.txt",
        "edgeslm_export/cli/model.py",
        "edgeslm_export/orders.txt",
        "edgeslm_export/optimum.txt",
    ):
        assert name in wheel.namelist(), name


def test_it_has_two_packages_and_nothing_else_at_the_top(wheel: zipfile.ZipFile) -> None:
    tops = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"edgeslm", "edgeslm_export"}


def test_a_module_that_is_gone_is_not_in_the_next_wheel(tmp_path: Path) -> None:
    """``pip install .`` builds in the clone, and ``build/`` stays there."""
    source = copy_sources(tmp_path)
    gone = source / "edgeslm/gone.py"
    gone.write_text("")
    for there in (True, False):
        with zipfile.ZipFile(build_wheel(tmp_path, source)) as archive:
            assert ("edgeslm/gone.py" in archive.namelist()) is there
        gone.unlink(missing_ok=True)


def test_its_metadata_tell_apps_to_install_paho_alone(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    needs = metadata.get_all("Requires-Dist") or []
    assert [need.split("<")[0] for need in needs if "extra ==" not in need] == ["paho-mqtt"]
    assert metadata.get_all("License-File") == ["LICENSE"]


def test_it_imports_where_only_it_is(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Each module of the client and of the commands, from the wheel and not from the tree."""
    wheel.extractall(tmp_path)
    libraries = Path(yaml.__file__).parent.parent
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import edgeslm, edgeslm.cli.main, edgeslm.client, edgeslm.dispatcher, edgeslm_export\n"
        "from edgeslm.hardware.board_profiles import boards_folder\n"
        "print(edgeslm.__file__, edgeslm_export.__file__, boards_folder())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path), str(libraries)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert all(place.startswith(f"{tmp_path}/") for place in done.stdout.split())
