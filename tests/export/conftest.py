"""Tiny sources for the export tests, made once a session by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.tiny_encoders import ENCODERS
from tests.export.tiny_models import FAMILIES

ROOT = Path(__file__).parents[2]


def _make(folder: Path, *names: str) -> Path:
    command = [sys.executable, "-m", "tests.export.tiny_models", str(folder), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``plain``, ``plain.gguf`` and ``bert``; see ``tiny_models``."""
    return _make(tmp_path_factory.mktemp("tiny"), "plain", "plain.gguf", "bert")


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of each family, with its real tokenizer and chat template."""
    return _make(tmp_path_factory.mktemp("families"), *FAMILIES)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder of each kind of ``tiny_encoders``."""
    return _make(tmp_path_factory.mktemp("encoders"), *ENCODERS)


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run("model", ...)``: the command in a process of its own; ``environment`` adds to this one's."""

    def call(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgeslm_export", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
        )

    return call
