"""The scripts of benchmarks/ as modules, for tests: they are no package, their neighbours lie beside them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from tests.support.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load_scripts(*names: str) -> dict[str, ModuleType]:
    """Each by its name, imported anew as when it is run; nothing of them stays in ``sys.modules``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        loaded = {name: importlib.import_module(name) for name in names}
        for name in names:
            patch.delitem(sys.modules, name)
    return loaded
