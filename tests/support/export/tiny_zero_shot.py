"""Tiny zero-shot checkpoints with random weights and the files of published ones; see ``tiny_encoders``.

The layers after the encoder have the names and shapes that the libraries GLiClass and GLiNER give them.
``benchmarks/lib/zero_shot_reference.py`` holds the engine to the libraries themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.export import tiny_encoders

SIZE = 32
FAMILIES = ("bert", "deberta", "modernbert")
_BY_FAMILY = {"bert": "bge", "deberta": "deberta", "modernbert": "modernbert"}


def encoder_of(family: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Writes the tokenizer of a tiny encoder with added tokens; returns the model, and its configuration."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(7)
    inner = folder / "inner"
    inner.mkdir(parents=True)
    tiny_encoders.make(_BY_FAMILY[family], inner)
    tokenizer = AutoTokenizer.from_pretrained(inner)
    tokenizer.add_tokens(["<<LABEL>>", "<<ENT>>", "<<SEP>>"], special_tokens=True)
    model = AutoModel.from_pretrained(inner)
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(folder)
    for file in sorted(inner.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    inner.rmdir()
    return model, {**model.config.to_dict(), "vocab_size": len(tokenizer)}


def token_id(folder: Path, word: str) -> int:
    added = json.loads((folder / "tokenizer.json").read_bytes())["added_tokens"]
    return next(int(token["id"]) for token in added if token["content"] == word)


def gliclass(family: str, folder: Path, *, bias: float = 0.0, **settings: Any) -> None:
    """A GLiClass; ``bias`` is added to the last bias of its text projector (NaN makes all logits NaN)."""
    model, encoder = encoder_of(family, folder)
    config = {
        "architectures": ["GLiClassModel"],
        "model_type": "GLiClass",
        "architecture_type": "uni-encoder",
        "encoder_model_name": "tiny",
        "encoder_config": encoder,
        "hidden_size": SIZE,
        "class_token_index": token_id(folder, "<<LABEL>>"),
        "text_token_index": token_id(folder, "<<SEP>>"),
        "scorer_type": "simple",
        "prompt_first": True,
        "normalize_features": True,
        **settings,
    }
    shapes = {
        "text_projector.linear_1": (SIZE, SIZE),
        "text_projector.linear_2": (SIZE, SIZE),
        "classes_projector.linear_1": (SIZE, SIZE),
        "classes_projector.linear_2": (SIZE, SIZE),
    }
    if config["scorer_type"] == "weighted-dot":
        shapes |= {"scorer.proj_text": (2 * SIZE, SIZE), "scorer.proj_label": (2 * SIZE, SIZE)}
        shapes |= {"scorer.out_mlp.0": (4 * SIZE, 3 * SIZE), "scorer.out_mlp.3": (1, 4 * SIZE)}
    if config["scorer_type"] == "mlp":
        shapes |= {"scorer.mlp.0": (256, 2 * SIZE), "scorer.mlp.2": (128, 256), "scorer.mlp.4": (1, 128)}
    tensors = {f"encoder_model.{name}": value for name, value in model.state_dict().items()}
    tensors |= _layers(shapes)
    tensors["text_projector.linear_2.bias"] += bias
    tensors["logit_scale"] = _tensor(2.6592)
    _save({f"model.{name}": value for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def gliner(family: str, folder: Path, *, as_pickle: bool = True, **settings: Any) -> None:
    """A GLiNER that labels spans; with ``num_rnn_layers`` 1 it has an LSTM."""
    import torch

    model, encoder = encoder_of(family, folder)
    config = {
        "model_name": "tiny",
        "encoder_config": encoder,
        "hidden_size": SIZE,
        "max_width": 4,
        "max_len": 48,
        "span_mode": "markerV0",
        "num_rnn_layers": 1,
        "class_token_index": token_id(folder, "<<ENT>>"),
        "vocab_size": encoder["vocab_size"],
        **settings,
    }
    spans = "span_rep_layer.span_rep_layer"
    wide = 4 if config["span_mode"] == "markerV0" else 2
    shapes: dict[str, tuple[int, int]] = {
        "prompt_rep_layer.0": (4 * SIZE, SIZE),
        "prompt_rep_layer.3": (SIZE, 4 * SIZE),
    }
    for name in ("project_start", "project_end"):
        shapes |= {f"{spans}.{name}.0": (wide * SIZE, SIZE), f"{spans}.{name}.3": (SIZE, wide * SIZE)}
    if wide == 4:
        shapes |= {f"{spans}.out_project.0": (4 * SIZE, 2 * SIZE), f"{spans}.out_project.3": (SIZE, 4 * SIZE)}
    else:
        shapes[f"{spans}.out_project"] = (SIZE, 2 * SIZE)
    prefix = "token_rep_layer.bert_layer.model."
    tensors = {f"{prefix}{name}": value for name, value in model.state_dict().items()} | _layers(shapes)
    if config["num_rnn_layers"]:
        rnn = torch.nn.LSTM(SIZE, SIZE // 2, bidirectional=True)
        tensors |= {f"rnn.lstm.{name}": value for name, value in rnn.state_dict().items()}
    if as_pickle:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        _save(tensors, folder / "model.safetensors")
    (folder / "gliner_config.json").write_text(json.dumps(config))


def nli(family: str, folder: Path, labels: tuple[str, ...] = ("entailment", "not_entailment")) -> None:
    """A classifier of text pairs, or with other ``labels`` of texts."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(7)
    inner = folder.with_name(f"{folder.name}-inner")
    inner.mkdir(parents=True)
    tiny_encoders.make(_BY_FAMILY[family], inner)
    named = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        inner, num_labels=len(labels), id2label=named, label2id={label: at for at, label in named.items()}
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(inner).save_pretrained(folder)


def _layers(shapes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    import torch

    tensors: dict[str, Any] = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
        tensors[f"{name}.bias"] = torch.randn(outputs) * 0.1
    return tensors


def _tensor(value: float) -> Any:
    import torch

    return torch.tensor(value)


def _save(tensors: Mapping[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, file)
