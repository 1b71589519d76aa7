"""The work folder of an export, which an interrupted one leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeslm_export.models.decoder import ExportOrder, _work_folder
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import Origin

from edgeslm.bundle.manifest import Source
from edgeslm.errors import ExportError

ORIGIN = Origin(Path("model"), "LlamaForCausalLM", 1000, Source(id="model", revision="sha256:1"))


def _order(recipe: str = "int4") -> ExportOrder:
    return ExportOrder(find_recipe(recipe))


def test_an_interrupted_export_leaves_its_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), _work_folder(out, ORIGIN, _order()) as notes:
        notes.save("study", {"layers": 2})
        raise KeyboardInterrupt
    with _work_folder(out, ORIGIN, _order("int8")) as other:
        assert other.load("study") is None, "another recipe"
    with _work_folder(out, ORIGIN, _order()) as again:
        assert again.load("study") == {"layers": 2}
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError), _work_folder(tmp_path / "out", ORIGIN, _order()):
        raise ExportError("The divergence is too large.")
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_exports_to_a_folder(tmp_path: Path) -> None:
    with _work_folder(tmp_path / "out", ORIGIN, _order()) as notes:
        with (
            pytest.raises(ExportError, match="Another process exports to"),
            _work_folder(tmp_path / "out", ORIGIN, _order()),
        ):
            pass
        assert notes.folder.is_dir()
