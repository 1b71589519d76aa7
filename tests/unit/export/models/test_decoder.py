"""What the work folder of an export depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeslm_export.models.decoder import ExportOrder, _work_path
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import Origin

from edgeslm.bundle.manifest import Source

GGUF = Origin(Path(__file__), "LlamaForCausalLM", 1000, Source(id="model", revision="sha256:1"))


def _path(folder: Path, recipe: str = "int4", origin: Origin = GGUF) -> Path:
    return _work_path(folder / "out", origin, ExportOrder(find_recipe(recipe)))


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
