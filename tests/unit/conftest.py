"""Unit tests: refuses imports of torch and the like. No broker, no model; all within a minute."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

REFUSED = {"torch", "transformers", "onnx", "onnxruntime", "onnxruntime_genai"}


class Refuse:
    """The first finder in ``sys.meta_path`` (:class:`importlib.abc.MetaPathFinder`)."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in REFUSED:
            raise ImportError(f"a unit test imports {name}: move it to tests/integration", name=name)
        return None


def pytest_configure(config: pytest.Config) -> None:
    """Installs the finder, but only in a run of unit tests: other tiers would share the process."""
    paths = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    if all(path.is_relative_to(Path(__file__).parent) for path in paths):
        sys.meta_path.insert(0, Refuse)
