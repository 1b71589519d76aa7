"""A decoder from source to bundle: judge, build, prove that it generates, put in place.

The steps that need torch or the inference library run in children (``build``, ``evaluate``); this module
orders them and writes the manifest. Knows no hub: ``hub.resolve_source`` brings the source here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgeslm_export.checkpoint import Origin, bundle_name
from edgeslm_export.child import OFFLINE, OnProgress, run_child
from edgeslm_export.evaluate import measure_bundle
from edgeslm_export.lora_graph import GRAPH, write_lora_graph
from edgeslm_export.package import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.recipe import Recipe
from edgeslm_export.resources import check_resources

from edgeslm.bundle import Manifest
from edgeslm.errors import ExportError

_NEEDED = ("model.onnx", "genai_config.json", "tokenizer.json", "tokenizer_config.json")


def export_model(
    origin: Origin,
    out: Path,
    recipe: Recipe,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` of ``origin``.

    :return: its manifest and what was measured when it was loaded again.
    :raises ExportError: any step that failed; nothing is left behind.
    """
    created = created_at(origin.revised)
    with staged(out) as stage:
        check_resources(origin.weights, _disk_need(origin, recipe), stage)
        with tempfile.TemporaryDirectory(prefix="work-", dir=stage) as work:
            _build(origin, stage, Path(work), recipe, on_progress, debug)
        config = json.loads((stage / "genai_config.json").read_bytes())["model"]
        fields = _manifest_fields(origin, recipe, config, created)
        if write_lora_graph(stage):
            fields["graphs"]["adapters"] = GRAPH
        write_manifest(stage, fields)
        measured = measure_bundle(stage, on_progress=on_progress, debug=debug)
        write_report(stage, _report(origin, recipe, stage))
        manifest = write_manifest(stage, fields)
    return manifest, measured


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Cache bytes of one token: keys and values, layers, key-value heads, head size, four bytes each.

    :param config: ``model`` of ``genai_config.json``. Layers with a sliding window need less, so this is
        the upper bound.
    """
    decoder = config["decoder"]
    per_layer = int(decoder["num_key_value_heads"]) * int(decoder["head_size"])
    return 2 * int(decoder["num_hidden_layers"]) * per_layer * 4


def _build(
    origin: Origin, stage: Path, work: Path, recipe: Recipe, on_progress: OnProgress | None, debug: bool
) -> None:
    task = {
        "source": str(origin.path.resolve()),
        "architecture": origin.architecture,
        "recipe": recipe.name,
        "work": str(work),
        "out": str(work / "bundle"),
    }
    command = [sys.executable, "-m", "edgeslm_export.build"]
    run_child(command, task, "the conversion", on_progress=on_progress, debug=debug, environment=OFFLINE)
    for file in sorted((work / "bundle").iterdir()):
        file.rename(stage / file.name)
    for name in _NEEDED:
        if not (stage / name).is_file():
            raise ExportError(f"The conversion wrote no {name}; run it again with --debug.")


def _disk_need(origin: Origin, recipe: Recipe) -> int:
    """Bytes written at most: a GGUF's weights as float32, and the graph."""
    checkpoint = origin.weights * 4 if origin.is_gguf else 0
    return checkpoint + origin.weights * recipe.bits // 8 + 50_000_000


def _report(origin: Origin, recipe: Recipe, stage: Path) -> dict[str, Any]:
    weight_bytes = sum(file.stat().st_size for file in stage.glob("model.onnx*"))
    return {
        "kind": "decoder",
        "weights": origin.weights,
        "weight_bytes": weight_bytes,
        "bits_per_weight": round(weight_bytes * 8 / origin.weights, 3),
        "recipe": recipe.name,
        "loads": True,
        "generates": True,
    }


def _manifest_fields(origin: Origin, recipe: Recipe, config: dict[str, Any], created: str) -> dict[str, Any]:
    groups = [{"group": "*", "bits": recipe.bits, "group_size": recipe.group_size}]
    if recipe.embedding_bits != recipe.bits:
        groups.insert(0, {"group": "model.embed_tokens", "bits": recipe.embedding_bits, "group_size": 1})
    return {
        "name": bundle_name(origin.source.id, recipe.name),
        "kind": "decoder",
        "architecture": origin.architecture,
        "source": origin.source,
        "quantization": {"recipe": recipe.name, "groups": groups},
        "context_length": int(config["context_length"]),
        "kv_bytes_per_token": kv_bytes_per_token(config),
        "graphs": {"generate": "model.onnx"},
        "runtime": runtime_versions("onnxruntime", "onnxruntime-genai"),
        "created": created,
    }
