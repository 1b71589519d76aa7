"""Modules of benchmarks/, found by their bare names, which are unique over its folders."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tests.support.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load_scripts(*names: str) -> dict[str, ModuleType]:
    """Each module by its bare name. A front door appends the checkout to ``sys.path``, which is undone."""
    before = list(sys.path)
    try:
        return {name: importlib.import_module(_dotted(name)) for name in names}
    finally:
        sys.path[:] = before


def _dotted(name: str) -> str:
    (file,) = BENCHMARKS.glob(f"*/{name}.py")
    return f"benchmarks.{file.parent.name}.{name}"
