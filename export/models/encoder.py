"""Encoder export: exports an encoder with torch or optimum, quantizes it, and compares it with the float
model.

torch's exporter runs in this environment (``graph.encoder_graph``), optimum in its own (``optimum_env``).
This module runs the steps in order, reads the model's pooling from sentence-transformers' files and writes
the manifest.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from edgeslm_export.bundle.writer import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.evaluate.report_card import embed_texts, load_encoder, measure_bundle
from edgeslm_export.evaluate.similarity import TEXTS, similarity
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE, RECIPES, EncoderRecipe
from edgeslm_export.jobs.optimum_env import optimum_python
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.jobs.subprocess_job import OFFLINE, Announce, OnProgress, run_child, run_module
from edgeslm_export.sources.checkpoint import Origin, bundle_name, read_config, weight_files

from edgeslm.bundle.manifest import EncoderSection, Manifest
from edgeslm.errors import ExportError

Exporter = Literal["torch", "optimum"]
"""What writes an encoder's graph: torch's exporter in this environment, or optimum in one of its own."""

_MODULES = ("Transformer", "Pooling", "Normalize")


_LINKED = frozenset({".json", ".txt", ".model", ".vocab", ".jinja"})
"""Suffixes of configuration and tokenizer files, which ``link_checkpoint`` links in addition to the weights,
for the older version of transformers that optimum uses."""

_BYTES_A_WEIGHT = 5
"""Low estimate of an export's peak memory in bytes a weight. The memory holds PyTorch's model and the graph,
both float32, at the same time."""


def export_encoder(
    origin: Origin,
    out: Path,
    announce: Announce,
    recipe: str = DEFAULT_RECIPE,
    *,
    by: Exporter = "torch",
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` from ``origin``.

    :param announce: called with a sentence for the user before something is downloaded.
    :param recipe: a key of ``RECIPES``.
    :param by: what writes the graph.
    :return: the bundle's manifest, and measurements of the finished bundle: speed and similarity to the float
        model.
    :raises ExportError: a step failed; nothing is left behind.
    """
    with staged(out) as stage:
        fields, report = fill_encoder(
            origin, stage, announce, recipe, by=by, on_progress=on_progress, debug=debug
        )
        write_report(stage, report)
        manifest = write_manifest(stage, fields)
        measured = measure_bundle(stage, on_progress=on_progress, debug=debug)
    return manifest, {**measured, **{key: report[key] for key in ("cosine_to_float", "rank_agreement")}}


def fill_encoder(
    origin: Origin,
    stage: Path,
    announce: Announce,
    recipe: str = DEFAULT_RECIPE,
    *,
    by: Exporter = "torch",
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the files of an encoder bundle into the folder ``stage``, with a provisional manifest.

    :param by: see ``export_encoder``.
    :return: the manifest's fields, and the report with the similarity to the float model.
    :raises ExportError: a step failed.
    """
    created = created_at(origin.revised)
    chosen = RECIPES[recipe]
    section, context_length = read_pooling(origin.path)
    check_resources(origin.weights, origin.weights * 6, stage, _BYTES_A_WEIGHT)
    python = optimum_python(announce, debug=debug) if by == "optimum" else None
    with tempfile.TemporaryDirectory(prefix="work-", dir=stage) as name:
        work = Path(name)
        task = {
            "source": str(link_checkpoint(origin.path, work / "source", on_progress, debug)),
            "out": str(work),
            "pooling": section.pooling,
            "normalize": section.normalize,
            "context_length": context_length,
            "texts": TEXTS,
        }
        if on_progress:
            on_progress(0, 4, "loading libraries")
        how: dict[str, Any] = {"on_progress": on_progress, "debug": debug}
        if python is None:
            run_module("graph.encoder_graph", task, "torch's export", **how)
        else:
            job = str(Path(__file__).with_name("optimum_worker.py"))
            run_child([str(python), "-I", job], task, "optimum's export", environment=OFFLINE, **how)
        if chosen.bits == 8:
            quantize_graph(work / "float" / "model.onnx", stage / "model.onnx", on_progress, debug)
        else:
            for file in sorted((work / "float").glob("model.onnx*")):  # above 2 GB the weights are separate
                file.rename(stage / file.name)
        _save_tokenizer(origin.path, work / "float", stage)
        reference = (work / "reference.npy").read_bytes()
    fields = {
        "name": bundle_name(origin.source.id, recipe),
        "kind": "encoder",
        "architecture": origin.architecture,
        "source": origin.source,
        "quantization": quantization_of(chosen),
        "context_length": context_length,
        "graphs": {"encode": "model.onnx"},
        "encoder": section,
        "runtime": runtime_versions("onnxruntime"),
        "created": created,
    }
    write_manifest(stage, fields)  # for the report, the engine must load the bundle
    return fields, _report(origin, stage, chosen, reference)


def quantization_of(recipe: EncoderRecipe) -> dict[str, Any]:
    """The manifest's field ``quantization``."""
    groups = [{"group": "*", "bits": recipe.bits, "group_size": 0}]
    return {"recipe": recipe.stored, "groups": groups}


def quantize_graph(source: Path, out: Path, on_progress: OnProgress | None, debug: bool) -> None:
    """Writes the int8 form of the graph ``source`` to ``out``."""
    task = {"source": str(source), "out": str(out)}
    run_module("graph.encoder_worker", task, "the quantization", on_progress=on_progress, debug=debug)


def read_pooling(folder: Path) -> tuple[EncoderSection, int]:
    """A checkpoint's pooling and context length.

    Pooling and context length come from sentence-transformers' ``modules.json``, the pooling module's
    ``config.json`` and ``sentence_bert_config.json``; an encoder without ``modules.json`` gets normalized
    mean pooling. ``config_sentence_transformers.json`` has the prefixes that some models expect before a text
    ("query: ").

    :raises ExportError: the checkpoint pools neither by mean nor by first token, or has another layer after
        the pooling.
    """
    config = read_config(folder / "config.json")
    modules = _optional_json(folder / "modules.json")
    pooling: dict[str, Any] = {"pooling_mode_mean_tokens": True}
    normalize = not modules
    for module in modules or ():
        kind, path = str(module.get("type", "")).rpartition(".")[2], folder / str(module.get("path", ""))
        if kind not in _MODULES:
            raise ExportError(
                f"{folder} goes on with a {kind} module after the transformer, which can't be exported; "
                f"those that can: {', '.join(_MODULES)}."
            )
        if kind == "Pooling":
            pooling = _optional_json(path / "config.json") or pooling
        normalize = normalize or kind == "Normalize"
    modes = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if on is True and "mode" in key]
    if modes not in (["mean_tokens"], ["cls_token"]):
        raise ExportError(
            f"{folder} pools its token vectors by {' and '.join(modes) or 'nothing'}; "
            "only mean_tokens or cls_token can be exported."
        )
    limits = [int(config.get("max_position_embeddings", 512))]
    if longest := (_optional_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length"):
        limits.append(int(longest))
    if str(config.get("model_type")) in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        limits[0] -= 2  # its positions start after the padding token's
    dimension = int(config.get("hidden_size") or config["dim"])
    section = EncoderSection(
        dimension=dimension,
        pooling="cls" if modes == ["cls_token"] else "mean",
        normalize=normalize,
        prompts=_prompts(folder),
    )
    return section, min(limits)


def _prompts(folder: Path) -> dict[str, str] | None:
    prompts = (_optional_json(folder / "config_sentence_transformers.json") or {}).get("prompts") or {}
    return {str(name): str(words) for name, words in prompts.items() if words} or None


def link_checkpoint(
    source: Path, folder: Path, on_progress: OnProgress | None = None, debug: bool = False
) -> Path:
    """Makes a copy of a checkpoint for the older version of transformers that optimum uses. The copy has
    links to the files, and no pickles.

    Weights that may be pickles are converted to safetensors. In the copy, the tokenizer class of transformers
    5 has the name that older versions know.
    """
    folder.mkdir()
    weights = weight_files(source)
    linked = [file for file in source.iterdir() if file.suffix in _LINKED and file.is_file()]
    linked = [file for file in linked if not file.name.endswith((".index.json", "tokenizer_config.json"))]
    if all(file.parent == source and file.suffix == ".safetensors" for file in weights):
        linked += [*weights, *source.glob("model.safetensors.index.json")]
    else:
        task = {"source": str(source), "out": str(folder / "model.safetensors")}
        run_module("models.safe_weights", task, "the conversion", on_progress=on_progress, debug=debug)
    for file in linked:
        (folder / file.name).symlink_to(file.resolve())
    settings = _optional_json(source / "tokenizer_config.json") or {}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _optional_json(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ExportError(f"{file} can't be read as JSON: {error}.") from None


def _save_tokenizer(source: Path, exported: Path, stage: Path) -> None:
    """Writes the checkpoint's ``tokenizer.json``; if there is none, the exported tokenizer. Settings for
    padding and truncation are removed, since the engine decides both. Copies the exported configuration
    files."""
    own = source / "tokenizer.json"
    tokenizer = json.loads((own if own.is_file() else exported / "tokenizer.json").read_bytes())
    tokenizer["truncation"] = tokenizer["padding"] = None
    (stage / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    for name in ("tokenizer_config.json", "config.json"):
        shutil.copyfile(exported / name, stage / name)


def _report(origin: Origin, stage: Path, recipe: EncoderRecipe, reference: bytes) -> dict[str, Any]:
    """The report, with the similarity to the float model's vectors. :raises ExportError: the similarity is
    too low."""
    import io

    import numpy as np

    expected = np.load(io.BytesIO(reference), allow_pickle=False)
    figures = similarity(expected, embed_texts(load_encoder(stage, 1), TEXTS))
    lowest = figures["cosine_to_float"]["lowest"]
    if not lowest >= recipe.lowest_cosine:
        raise ExportError(
            f"The {recipe.stored} encoder is too far from the float model: cosine {lowest:.4f} on one of "
            f"{len(TEXTS)} texts, at least {recipe.lowest_cosine} is needed."
        )
    size = sum(file.stat().st_size for file in stage.glob("model.onnx*"))
    return {
        "kind": "encoder",
        "weights": origin.weights,
        "weight_bytes": size,
        "bits_per_weight": round(size * 8 / origin.weights, 3),
        "recipe": recipe.stored,
        "texts": len(TEXTS),
        **figures,
    }
