"""Packages that are missing, have other versions, or do harm when they are imported."""

from __future__ import annotations

import os
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

MISSING = "raise ModuleNotFoundError('not installed', name='{name}')"
KILLS = "import os\nos.kill(os.getpid(), 9)"


def replace_package(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, code: str = MISSING) -> None:
    """Child processes that import the package ``name`` run ``code`` instead."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code.format(name=name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


class FakePackages:
    """What is installed: distribution -> version. None: what is really there."""

    def __init__(self) -> None:
        self.versions: dict[str, str] | None = None
        self._real = Distribution.from_name

    def find(self, name: str) -> Any:
        if self.versions is None:
            return self._real(name)
        if name not in self.versions:
            raise PackageNotFoundError(name)
        return SimpleNamespace(version=self.versions[name])


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> FakePackages:
    fake = FakePackages()
    monkeypatch.setattr(Distribution, "from_name", fake.find)
    return fake
