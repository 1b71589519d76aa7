"""A device installed by its list alone: all of it imports, and a model answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.repository.test_wheel import build_wheel
from tests.support.paths import ROOT
from tests.unit.repository.test_requirements import HUB

LISTS = ("device.txt", "device-documents.txt")

IMPORT_ALL = """
import importlib, pkgutil, sys
import edgeslm
from edgeslm.config.extras import EXTRAS
for module in pkgutil.walk_packages(edgeslm.__path__, "edgeslm."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name.partition(".")[0])
        if extra in (None, "node", "documents"):
            raise
        print(module.name, extra)
print(edgeslm.__file__)
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and what the lists name, by pip's cache or its index."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    lists = [f"--requirement={ROOT / 'requirements' / name}" for name in LISTS]
    hashed = [*pip, "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", *lists]
    own = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(build_wheel(folder))]
    for command in (hashed, own):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return python


def run(device: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([device, "-I", *arguments], capture_output=True, text=True, cwd=cwd, timeout=240)


def test_every_module_of_a_device_imports(device: Path, tmp_path: Path) -> None:
    done = run(device, "-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *without, place = done.stdout.splitlines()
    assert place.startswith(f"{device.parent.parent}/")
    assert {line.split()[1] for line in without} <= {"api", "mcp", "remote", "tracing", "verify"}


def test_a_device_has_few_distributions_and_the_doctor_spares_none(device: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import distributions as d; print(*(one.metadata['Name'] for one in d()))"
    names = {name.lower().replace("_", "-") for name in run(device, "-c", code, cwd=tmp_path).stdout.split()}
    assert "edgeslm" in names and len(names) <= 25
    assert not names & HUB
    code = (
        "from edgeslm.cli.doctor.distributions import judge_distributions\n"
        "from edgeslm.cli.doctor.probes import Probes\n"
        "print(judge_distributions(Probes().distributions()))"
    )
    assert run(device, "-c", code, cwd=tmp_path).stdout == "[]\n"


@pytest.mark.e2e
def test_a_model_answers_on_a_device(device: Path, starter: Path, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "node": "device",
                "broker": {"url": "mqtt://localhost"},
                "state_dir": str(tmp_path / "state"),
                "models": {"small": {"bundle": str(starter / "smollm2-135m-int4"), "threads": 1}},
                "tasks": {
                    "triage": {
                        "kind": "classify",
                        "model": "small",
                        "instruction": "How urgent is this message?",
                        "labels": {"normal": "all is well", "critical": "stop now"},
                    }
                },
            }
        )
    )
    done = run(device, "-m", "edgeslm", "try", str(file), "triage", "Smoke from the press", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"status":"ok"' in done.stdout.replace(" ", "")
