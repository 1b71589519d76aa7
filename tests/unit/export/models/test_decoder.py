"""The work folder of an export, which an interrupted one leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgeslm_export.jobs.subprocess_job import ChildKilled
from edgeslm_export.models.decoder import ExportOrder, _work_folder, _work_path
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import Origin

from edgeslm.bundle.manifest import Source
from edgeslm.errors import ExportError

GGUF = Origin(Path(__file__), "LlamaForCausalLM", 1000, Source(id="model", revision="sha256:1"))


def _path(folder: Path, recipe: str = "int4", origin: Origin = GGUF) -> Path:
    return _work_path(folder / "out", origin, ExportOrder(find_recipe(recipe)))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ChildKilled])
def test_an_interrupted_export_leaves_its_work(tmp_path: Path, interruption: type[BaseException]) -> None:
    out = tmp_path / "out"
    with pytest.raises(interruption), _work_folder(_path(tmp_path), out) as notes:
        notes.save("study", {"layers": 2})
        raise interruption
    assert _path(tmp_path, "int8") != notes.folder, "another recipe"
    with _work_folder(_path(tmp_path), out) as again:
        assert again.load("study") == {"layers": 2}
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError), _work_folder(_path(tmp_path), tmp_path / "out"):
        raise ExportError("The divergence is too large.")
    assert list(tmp_path.iterdir()) == []


def test_a_successful_export_removes_the_work_of_other_recipes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for recipe in ("int8", "auto"):
        with pytest.raises(KeyboardInterrupt), _work_folder(_path(tmp_path, recipe), out):
            raise KeyboardInterrupt
    with _work_folder(_path(tmp_path), out):
        assert len(list(tmp_path.iterdir())) == 3
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_makes_an_export(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _work_folder(_path(tmp_path), out) as notes:
        with pytest.raises(ExportError, match="Another process"), _work_folder(_path(tmp_path), out):
            pass
        assert notes.folder.is_dir()


def test_work_on_a_folder_is_of_its_small_files_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "config.json").write_text("{}")
    origin = replace(GGUF, path=source)
    before = _path(tmp_path, origin=origin)
    assert _path(tmp_path, origin=origin) == before
    (source / "chat_template.jinja").write_text("{{ messages }}")
    assert _path(tmp_path, origin=origin) != before
