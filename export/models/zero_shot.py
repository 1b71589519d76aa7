"""Zero-shot export: GLiClass, GLiNER and classifiers for natural-language inference as encoder bundles.

The encoder is exported as any other, by torch's exporter; the layers after it are copied to ``layers.npz``.
The report says how far the probabilities of the quantized model are from those of the float model.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeslm_export.bundle.writer import staged
from edgeslm_export.evaluate.report_card import label_texts, load_encoder
from edgeslm_export.evaluate.similarity import TEXTS
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE
from edgeslm_export.jobs.subprocess_job import Announce, OnProgress, run_module
from edgeslm_export.models.encoder import fill_encoder
from edgeslm_export.models.probability_check import finish_checked
from edgeslm_export.models.zero_shot_parts import LAYERS
from edgeslm_export.sources.checkpoint import GLINER_CONFIG, Origin, bundle_name, read_config
from edgeslm_export.sources.zero_shot import ZeroShotSource, read_gliclass, read_gliner, read_nli

from edgeslm.bundle.manifest import Manifest
from edgeslm.errors import ExportError

LABELS = ("machine", "place", "person", "number")
"""Labels by which float and quantized model are compared."""


def read_zero_shot(origin: Origin, hypothesis: str | None = None) -> ZeroShotSource | None:
    """What kind of zero-shot model a checkpoint is; None for another encoder.

    :raises ExportError: a zero-shot model that can't be exported, or a hypothesis for another model.
    """
    folder = origin.path
    if (folder / GLINER_CONFIG).is_file():
        found: ZeroShotSource | None = read_gliner(folder)
    elif read_config(folder / "config.json").get("model_type") == "GLiClass":
        found = read_gliclass(folder)
    else:
        found = read_nli(folder, hypothesis)
    if hypothesis is not None and (found is None or found.section.kind != "nli"):
        raise ExportError("A hypothesis is for models of natural-language inference; leave it out.")
    return found


def export_zero_shot(
    origin: Origin,
    source: ZeroShotSource,
    out: Path,
    announce: Announce,
    recipe: str = DEFAULT_RECIPE,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out``.

    :return: the manifest; and measurements: speed, and the difference to the float model.
    :raises ExportError: a step failed, or the quantized model is too far from the float model.
    """
    how: dict[str, Any] = {"on_progress": on_progress, "debug": debug}
    with staged(out) as stage, tempfile.TemporaryDirectory(prefix="zero-shot-") as name:
        parts = Path(name) / "encoder"
        parts.mkdir()
        task = {
            "source": str(origin.path),
            "out": str(parts),
            "kind": source.section.kind,
            "prefix": source.prefix,
            "encoder": dict(source.encoder),
        }
        told = run_module("models.zero_shot_parts", task, "reading the checkpoint", **how)
        fields, report = fill_encoder(replace(origin, path=parts), stage, announce, "float", **how)
        shutil.copyfile(parts / LAYERS, stage / LAYERS)
        fields |= _fields(origin, source, told, fields, recipe)
        _protect_tokens(stage, source)
        report |= {"zero_shot": source.section.kind}
        return finish_checked(stage, fields, report, origin, recipe, _predict, **how)


def _predict(folder: Path) -> list[list[float]]:
    return label_texts(load_encoder(folder, 1), TEXTS, LABELS)


def _fields(
    origin: Origin, source: ZeroShotSource, told: dict[str, Any], fields: dict[str, Any], recipe: str
) -> dict[str, Any]:
    """Fields of the manifest that differ from the encoder's."""
    changes: dict[str, Any] = {}
    pooling = told.get("pooling", "mean")
    if source.section.kind == "gliclass" and source.section.scale is not None:
        changes["scale"] = told.get("scale", 1.0)
    if source.section.kind == "nli":
        changes |= {name: told[name] for name in ("activation", "segments")}
    return {
        "name": bundle_name(origin.source.id, recipe),
        "architecture": source.architecture,
        "context_length": source.context_length,
        "encoder": fields["encoder"].model_copy(update={"pooling": pooling, "normalize": False}),
        "zero_shot": source.section.model_copy(update=changes),
    }


def _protect_tokens(stage: Path, source: ZeroShotSource) -> None:
    """Marks the tokens between labels and text as special, so that a text can't contain them."""
    if source.section.kind == "nli":
        return
    own = {source.section.label_token, source.section.text_token}
    file = stage / "tokenizer.json"
    tokenizer = json.loads(file.read_bytes())
    for token in tokenizer["added_tokens"]:
        if token["id"] in own:
            token["special"] = True
    file.write_text(json.dumps(tokenizer, ensure_ascii=False))
