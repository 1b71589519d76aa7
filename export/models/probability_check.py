"""Probability check: quantizes an encoder in a bundle's folder, and compares the probabilities of labels with
those of the float model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.models.encoder import quantize_graph

from edgeslm.errors import ExportError

MOST_APART = 0.03
"""Largest mean difference of probabilities of a quantized model to the float model."""


def quantize_stage(stage: Path, work: Path, on_progress: OnProgress | None, debug: bool) -> None:
    """Replaces the float graph in ``stage`` by its int8 form; the float graph is moved to ``work``."""
    for file in sorted(stage.glob("model.onnx*")):
        shutil.move(file, work / file.name)
    quantize_graph(work / "model.onnx", stage / "model.onnx", on_progress, debug)


def compare_probabilities(
    floats: Sequence[Sequence[float]], found: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Differences of probabilities [texts, labels] to the float model: ``probabilities``, with
    ``mean_apart``, ``most_apart`` and ``same_label``, the share of texts with the same likeliest label.

    :raises ExportError: they are too large.
    """
    pairs = list(zip(floats, found, strict=True))
    apart = [abs(one - other) for row, beside in pairs for one, other in zip(row, beside, strict=True)]
    same = [row.index(max(row)) == beside.index(max(beside)) for row, beside in pairs]
    mean = sum(apart) / len(apart)
    if not mean <= MOST_APART:
        raise ExportError(
            f"The quantized model's probabilities differ by {mean:.3f} on average from the float model, and "
            f"{MOST_APART} is allowed; export it with --recipe float."
        )
    figures = {"mean_apart": round(mean, 5), "most_apart": round(max(apart), 5)}
    return {"probabilities": {**figures, "same_label": round(sum(same) / len(same), 4)}}
