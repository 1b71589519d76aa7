"""The real starter models, as their own report card measured them."""

from __future__ import annotations

import json
from pathlib import Path

from edgeslm_export.starter import MODEL, MODEL_BYTES


def test_the_real_starter_is_small_and_near_its_original(starter: Path) -> None:
    """What its own report card says: measured when it was made, with a wide margin."""
    folder = starter / MODEL
    report = json.loads((folder / "report.json").read_text())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MODEL_BYTES
    assert report["recipe"] == "auto"
    assert report["fidelity"]["tokens"] == 4096
    assert report["fidelity"]["kl_mean"] < 0.1
    assert report["golden"]["differing"] == 0
