"""Probability check: quantizes the encoder of a bundle that gives probabilities of labels, and compares them
with those of the float model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.bundle.writer import write_manifest, write_report
from edgeslm_export.evaluate.report_card import measure_bundle
from edgeslm_export.graph.encoder_recipe import RECIPES
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.models.encoder import quantization_of, quantize_graph
from edgeslm_export.sources.checkpoint import Origin

from edgeslm.bundle.manifest import Manifest
from edgeslm.errors import ExportError

MOST_APART = 0.03
"""Largest mean difference of probabilities of a quantized model to the float model."""


def finish_checked(
    stage: Path,
    fields: dict[str, Any],
    report: dict[str, Any],
    origin: Origin,
    recipe: str,
    predict: Callable[[Path], list[list[float]]],
    *,
    on_progress: OnProgress | None,
    debug: bool,
) -> tuple[Manifest, dict[str, Any]]:
    """Finishes a bundle whose float graph is in ``stage``: quantizes it, compares the probabilities of
    ``predict`` with those before, and writes report and manifest.

    :param fields: the manifest's fields. :param report: the report's figures so far. :param predict: gives
        the probabilities [texts, labels] of the bundle in a folder.
    :return: the manifest; and measurements: speed, and the difference to the float model.
    :raises ExportError: a step failed, or the quantized model is too far from the float model.
    """
    write_manifest(stage, fields)
    floats = predict(stage)
    report |= {"recipe": RECIPES[recipe].stored}
    if RECIPES[recipe].bits == 8:
        with tempfile.TemporaryDirectory(prefix="work-", dir=stage) as work:
            for file in sorted(stage.glob("model.onnx*")):
                shutil.move(file, work)
            quantize_graph(Path(work) / "model.onnx", stage / "model.onnx", on_progress, debug)
        fields["quantization"] = quantization_of(RECIPES[recipe])
        write_manifest(stage, fields)
        report |= compare_probabilities(floats, predict(stage))
        size = sum(file.stat().st_size for file in stage.glob("model.onnx*"))
        report |= {"weight_bytes": size, "bits_per_weight": round(size * 8 / origin.weights, 3)}
    write_report(stage, report)
    manifest = write_manifest(stage, fields)
    measured = measure_bundle(stage, on_progress=on_progress, debug=debug)
    return manifest, {**measured, **{key: report[key] for key in ("probabilities",) if key in report}}


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
