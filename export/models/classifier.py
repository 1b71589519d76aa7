"""Classifier export: a sequence classifier of transformers as a learned task with an encoder of its own.

The bundle is of kind ``head``, as those that ``tune`` writes: a task names it in ``learned``. The labels are
the checkpoint's. The encoder is exported by torch's exporter, and the layers after it stay float.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeslm_export.bundle.writer import staged
from edgeslm_export.evaluate.report_card import classify_texts, load_encoder
from edgeslm_export.evaluate.similarity import TEXTS
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE
from edgeslm_export.jobs.subprocess_job import Announce, OnProgress, run_module
from edgeslm_export.models.classifier_head import HEAD_NAMES
from edgeslm_export.models.encoder import fill_encoder
from edgeslm_export.models.probability_check import finish_checked
from edgeslm_export.models.zero_shot_parts import LAYERS
from edgeslm_export.sources.checkpoint import Origin, bundle_name, read_config
from edgeslm_export.sources.zero_shot import labels_of

from edgeslm.bundle.manifest import Manifest
from edgeslm.bundle.zero_shot import MOST_TOKENS
from edgeslm.errors import ExportError

WEIGHTS = "head.npz"
_UNNAMED = ("LABEL_0", "LABEL_1")
"""Labels of a configuration that names none, as in transformers."""
_NUMBERED = re.compile(r"LABEL_\d+")


def read_labels(folder: Path, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels of a classifier in the order of its outputs.

    :param names: other names for them, in this order.
    :raises ExportError: the classifier's outputs aren't probabilities of labels, of which one is right; the
        labels have no names; or ``names`` are too few, too many or not different.
    """
    config = read_config(folder / "config.json")
    numbered = {number: label for label, number in labels_of(config).items()} or dict(enumerate(_UNNAMED))
    count = len(numbered)
    if config.get("problem_type") == "multi_label_classification":
        raise ExportError(f"{folder} gives a text several labels at once; classify chooses one.")
    if count < 2 or config.get("problem_type") == "regression":
        raise ExportError(
            f"{folder} has one output, which is no label; `edgeslm-export reader` exports cross-encoders."
        )
    if sorted(numbered) != list(range(count)):
        raise ExportError(f"{folder} numbers its labels in an unknown way: {numbered}.")
    found = tuple(numbered[number] for number in range(count))
    if names:
        found = tuple(names)
        if len(names) != count:
            raise ExportError(f"{folder} has {count} labels, and --labels names {len(names)}.")
    elif all(_NUMBERED.fullmatch(label) for label in found):
        raise ExportError(f"{folder} doesn't name its {count} labels; add --labels, in their order.")
    if len(set(found)) != count or not all(label.strip() for label in found):
        raise ExportError("Labels must differ, and none may be empty.")
    return found


def export_classifier(
    origin: Origin,
    labels: Sequence[str],
    out: Path,
    announce: Announce,
    recipe: str = DEFAULT_RECIPE,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out``.

    :param labels: see ``read_labels``.
    :return: the manifest; and measurements: speed, and the difference to the float model.
    :raises ExportError: a step failed, or the quantized model is too far from the float model.
    """
    how: dict[str, Any] = {"on_progress": on_progress, "debug": debug}
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="classifier-") as name:
        parts = Path(name) / "encoder"
        parts.mkdir()
        task = {"source": str(origin.path), "out": str(parts), "kind": "classifier"}
        told = run_module("models.zero_shot_parts", task, "reading the checkpoint", **how)
        fields, report = fill_encoder(replace(origin, path=parts), stage, announce, "float", **how)
        _write_head(parts, stage, len(labels))
        fields |= {
            "name": bundle_name(origin.source.id, recipe),
            "kind": "head",
            "context_length": min(fields["context_length"], MOST_TOKENS),
            "encoder": fields["encoder"].model_copy(
                update={"pooling": told["pooling"], "normalize": False, "prompts": None}
            ),
            "head": {"weights": WEIGHTS, "activation": told["activation"]},
            "learned": {
                "task": bundle_name(origin.source.id, "labels"),
                "kind": "classify",
                "labels": tuple(labels),
                "rows": 0,
            },
        }
        return finish_checked(stage, fields, report, origin, recipe, _predict, **how)


def _predict(folder: Path) -> list[list[float]]:
    return classify_texts(load_encoder(folder, 1), TEXTS)


def _write_head(parts: Path, stage: Path, labels: int) -> None:
    """Copies the layers after the encoder. :raises ExportError: they have another number of outputs."""
    import numpy as np

    with np.load(parts / LAYERS, allow_pickle=False) as arrays:
        layers: dict[str, Any] = {HEAD_NAMES[name]: arrays[name] for name in arrays}
    if layers["weight"].shape[0] != labels:
        raise ExportError(f"The classifier has {layers['weight'].shape[0]} outputs and {labels} labels.")
    np.savez(stage / WEIGHTS, **layers)
