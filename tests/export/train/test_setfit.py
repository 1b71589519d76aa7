"""An encoder taught by pairs of rows, through the real library."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train import setfit
from edgeslm_export.train.setfit import contrast_encoder

from edgeslm.errors import ExportError
from tests.export.tiny_tasks import sayings


class _Trap:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self._file),)


def test_a_few_rows_teach_an_encoder_by_pairs(tmp_path: Path, encoders: Path, one_thread: None) -> None:
    """On a tiny model."""
    texts, truth = sayings(16)
    section, _ = read_pooling(encoders / "e5")
    source = tmp_path / "source"
    shutil.copytree(encoders / "e5", source)
    (source / "model_head.pkl").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    contrast_encoder(source, tmp_path / "out", section, 64, texts, truth)
    assert not (tmp_path / "sprung").exists()  # SetFit's own loader runs what is in this file
    origin = examine_local(tmp_path / "out", "encoder")
    assert origin.architecture == "XLMRobertaModel"
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    before, after = (
        (folder / "model.safetensors").read_bytes() for folder in (encoders / "e5", tmp_path / "out")
    )
    assert before != after


def test_a_missing_library_is_named(tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setfit, "is_installed", lambda: False)
    section, _ = read_pooling(encoders / "e5")
    with pytest.raises(ExportError, match="needs the package setfit"):
        contrast_encoder(encoders / "e5", tmp_path / "out", section, 64, ["a", "b"], [0, 1])
