"""Quantization on another device than the CPU: nothing is left on the CPU, and the codes are the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.evaluate.reference import study_task
from edgeslm_export.jobs.subprocess_job import run_module
from edgeslm_export.quantize.formats import ROW, Format
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.sources.corpus import Corpus

from tests.support.export.second_device import run_on_second

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]
TEXT = "\n".join(f"Step {number}. Loosen screw {number}, then clean the lid." for number in range(200))
FORMS = (Format(4, 32), Format(8, 64), Format(8, ROW))


def quantized(run: Any, source: Path, work: Path) -> dict[str, Any]:
    work.mkdir()
    corpus = Corpus("steps", "steps", ((TEXT,),), (), (TEXT[-3000:],))
    task = study_task(examine_local(source, "decoder"), corpus, calibration_tokens=2048, formats=FORMS[:2])
    found = run("quantize.worker", {"work": str(work), **task}, "the study")
    layers = {name: [[form.bits, form.group_size] for form in FORMS] for name in found["matrices"]}
    top = {name: layers[name][:2] for name in found["losses"]}
    order = {"step": "quantize", "formats": layers | top, "exact": {}, "compensate": True}
    order["spare"] = {name: [8, 64] for name in layers.keys() - top.keys()}
    return {
        **found,
        "losses of layers": run("quantize.worker", {"work": str(work), **order}, "quantizing")["losses"],
    }


@pytest.mark.parametrize("name", ["plain", "plain.gguf"])
def test_a_decoder_is_quantized_on_the_device(name: str, tiny: Path, tmp_path: Path) -> None:
    cpu = quantized(run_module, tiny / name, tmp_path / "cpu")
    second = quantized(run_on_second, tiny / name, tmp_path / "second")
    assert second.keys() == cpu.keys() and second["matrices"] == cpu["matrices"]
    for losses in ("losses", "losses of layers"):
        for matrix, found in cpu[losses].items():
            assert np.array(second[losses][matrix]) == pytest.approx(np.array(found), rel=1e-3)
    assert np.load(tmp_path / "second/reference.npy") == pytest.approx(
        np.load(tmp_path / "cpu/reference.npy"), abs=1e-2
    )
    files = sorted((tmp_path / "cpu/codes").glob("*.npz"))
    assert [file.name for file in files] == ["0.npz", "1.npz", "top.npz"]
    for file in files:
        with np.load(file) as codes, np.load(tmp_path / "second/codes" / file.name) as others:
            assert others.keys() == codes.keys()
            for key in codes:
                assert (others[key] == codes[key]).mean() > 0.99  # a code between two may fall either way
