"""Checkpoint split: child process that divides a zero-shot checkpoint or a classifier into its encoder and
the layers after it.

Runs as ``python -m edgeslm_export.models.zero_shot_parts`` (see ``subprocess_job``) with ``source``,
``out``, ``kind``, ``prefix`` and ``encoder``, the encoder's configuration. Writes a checkpoint of the
encoder to ``out``, and the layers as ``LAYERS`` under the names that ``engine.worker`` reads. Weights are
read as safetensors or by torch's loader of weights alone; no code of a checkpoint runs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.models.classifier_head import split_classifier
from edgeslm_export.sources.checkpoint import SETTINGS, weight_files

from edgeslm.errors import ExportError

LAYERS = "layers.npz"
_OWN = frozenset({"config.json", "gliner_config.json", "encoder_config.json"})
_MAY_MISS = ("position_ids", "pooler.")
"""Parts of names of weights that an encoder's last hidden states don't depend on."""

_GLICLASS = {
    "text_projector.linear_1": "text_in",
    "text_projector.linear_2": "text_out",
    "classes_projector.linear_1": "label_in",
    "classes_projector.linear_2": "label_out",
    "scorer.proj_text": "score_text",
    "scorer.proj_label": "score_label",
    "scorer.out_mlp.0": "score_in",
    "scorer.out_mlp.3": "score_out",
    "scorer.mlp.0": "score_0",
    "scorer.mlp.2": "score_1",
    "scorer.mlp.4": "score_2",
}
_GLINER = {
    "token_rep_layer.projection": "projection",
    "prompt_rep_layer.0": "label_in",
    "prompt_rep_layer.3": "label_out",
    "span_rep_layer.span_rep_layer.project_start.0": "start_in",
    "span_rep_layer.span_rep_layer.project_start.3": "start_out",
    "span_rep_layer.span_rep_layer.project_end.0": "end_in",
    "span_rep_layer.span_rep_layer.project_end.3": "end_out",
}
_SPANS = "span_rep_layer.span_rep_layer.out_project"


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process. :return: ``scale`` (of normalized vectors); or of a classifier
    ``activation``, ``pooling`` and ``segments``."""
    import numpy as np
    import transformers

    transformers.utils.logging.set_verbosity_error()
    reporter.progress(0, 4, "loading libraries")
    source, out, kind = Path(task["source"]), Path(task["out"]), task["kind"]
    found: dict[str, Any] = {}
    if kind in ("nli", "classifier"):
        encoder, layers, found = split_classifier(source)
    else:
        tensors = _without_wrapper(load_tensors(source), task["prefix"])
        encoder = _encoder(task["encoder"], tensors, task["prefix"])
        layers = (_gliclass if kind == "gliclass" else _gliner)(tensors, task["prefix"])
        if kind == "gliclass" and "model.logit_scale" in tensors:
            found["scale"] = float(tensors["model.logit_scale"])
    encoder.config.architectures = [type(encoder).__name__]
    encoder.save_pretrained(out)
    for file in source.iterdir():
        is_own = file.name in _OWN or file.name.endswith(".index.json")
        if file.suffix in SETTINGS and file.is_file() and not is_own:
            shutil.copyfile(file, out / file.name)
    arrays = {name: value.detach().float().numpy() for name, value in layers.items()}
    np.savez(out / LAYERS, **arrays)
    return found


def load_tensors(source: Path) -> dict[str, Any]:
    """All tensors of a checkpoint, float32. :raises ExportError: a file holds anything else, or can't be
    read."""
    import torch
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in weight_files(source):
        try:
            if file.suffix == ".safetensors":
                found |= load_file(file)
            else:
                found |= torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of many kinds
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(f"{file} holds more than weights, or is damaged: {reason}") from None
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in found.items()
        if torch.is_tensor(value)
    }


def _without_wrapper(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Tensors without the ``model.`` that some versions of a library put before all names."""
    wrapped = f"model.{prefix}"
    if any(name.startswith(wrapped) for name in tensors):
        return {name.removeprefix("model."): value for name, value in tensors.items()}
    return tensors


def _encoder(config: Mapping[str, Any], tensors: Mapping[str, Any], prefix: str) -> Any:
    """The encoder with its weights. :raises ExportError: weights are missing or left over."""
    from transformers import AutoConfig, AutoModel

    settings = {name: value for name, value in config.items() if name != "model_type"}
    table = next((value for name, value in tensors.items() if _is_table(name, prefix)), None)
    if table is None:
        raise ExportError(f"The checkpoint has no weights under {prefix}, so its encoder can't be read.")
    settings["vocab_size"] = table.shape[0]  # special tokens were added
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    model = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **settings))
    try:
        wrong = model.load_state_dict(own, strict=False)
    except RuntimeError as error:  # shapes
        raise ExportError(f"The encoder's weights don't fit its configuration: {error}") from None
    names = [*wrong.missing_keys, *wrong.unexpected_keys]
    left = [name for name in names if not any(part in name for part in _MAY_MISS)]
    if left:
        raise ExportError(f"The encoder's weights don't fit its configuration: {', '.join(left[:5])}.")
    return model.eval()


def _is_table(name: str, prefix: str) -> bool:
    ends = ("word_embeddings.weight", "tok_embeddings.weight")
    return name.startswith(prefix) and name.endswith(ends)


def _gliclass(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    own = {name.removeprefix("model."): value for name, value in tensors.items()}
    _check_known(own, (prefix.removeprefix("model."), "logit_scale", "lstm.lstm.", *_GLICLASS))
    return {**_renamed(own, _GLICLASS), **_lstm(own, "lstm.lstm.")}


def _gliner(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    last = {f"{_SPANS}.0": "span_in", f"{_SPANS}.3": "span_out", _SPANS: "span_out"}
    _check_known(tensors, (prefix, "rnn.lstm.", *_GLINER, *last))
    return {**_renamed(tensors, {**_GLINER, **last}), **_lstm(tensors, "rnn.lstm.")}


def _check_known(tensors: Iterable[str], starts: tuple[str, ...]) -> None:
    """:raises ExportError: the checkpoint has a layer that the engine wouldn't compute."""
    unknown = {name.rpartition(".")[0] or name for name in tensors if not name.startswith(starts)}
    if unknown:
        named = ", ".join(sorted(unknown)[:5])
        raise ExportError(f"The checkpoint has layers that can't be exported: {named}.")


def _renamed(tensors: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for before, after in names.items():
        for part in ("weight", "bias"):
            if f"{before}.{part}" in tensors:
                found[f"{after}.{part}"] = tensors[f"{before}.{part}"]
    return found


def _lstm(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Arrays of a bidirectional LSTM of PyTorch; its two biases are added."""
    found: dict[str, Any] = {}
    layer = 0
    while f"{prefix}weight_ih_l{layer}" in tensors:
        for way, suffix in (("forward", ""), ("backward", "_reverse")):
            at = f"lstm.{layer}.{way}"
            one = {part: tensors[f"{prefix}{part}_l{layer}{suffix}"] for part in _LSTM_PARTS}
            found |= {f"{at}.input": one["weight_ih"], f"{at}.hidden": one["weight_hh"]}
            found[f"{at}.bias"] = one["bias_ih"] + one["bias_hh"]
        layer += 1
    return found


_LSTM_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
