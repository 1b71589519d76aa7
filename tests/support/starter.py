"""The starter models, which ``scripts/setup`` makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope="session")
def starter() -> Path:
    """The starter models: ``smollm2-135m-int4`` and ``minilm-l6-int8``."""
    folder = Path(os.environ.get("EDGESLM_STARTER", ROOT / ".edgeslm/starter")).absolute()
    for name in ("smollm2-135m-int4", "minilm-l6-int8"):
        if not (folder / name / "manifest.json").exists():
            pytest.fail(f"{folder / name} is missing: make it with `edgeslm-export starter .edgeslm/starter`")
    return folder
