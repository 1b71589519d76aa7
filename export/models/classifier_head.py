"""Classification heads: the layers after the encoder of a sequence classifier of transformers.

A head is an optional dense layer with an activation (``dense``), an optional layer normalization (``norm``)
and the last layer (``class``). Its input is the first token's vector, or the mean of all. A cross-encoder has
the same head with one output. Runs in a child process, which loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeslm.errors import ExportError

HEAD_NAMES = {
    "class.weight": "weight",
    "class.bias": "bias",
    "dense.weight": "dense",
    "dense.bias": "dense_bias",
    "norm.weight": "norm",
    "norm.bias": "norm_bias",
}
"""Names of ``split_classifier`` -> names in the weights file of a bundle of kind ``head``."""


def split_classifier(source: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The encoder of a sequence classifier; the tensors of the layers after it; and its ``activation``,
    ``pooling`` and ``segments``. ``activation`` is None without a layer ``dense``.

    :raises ExportError: its head is of an unknown kind.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        source, dtype=torch.float32, local_files_only=True, weights_only=True
    )
    config, encoder = model.config, model.base_model
    head: Any = getattr(model, "classifier", None)
    dense: Any = None
    norm: Any = None
    pooling, activation = "cls", "tanh"
    if config.model_type == "modernbert":
        dense, norm = model.head.dense, model.head.norm
        activation, pooling = config.classifier_activation, config.classifier_pooling
        if getattr(norm, "eps", 1e-5) != 1e-5:
            raise ExportError(f"{source} normalizes with another epsilon than 1e-5.")
    elif hasattr(model, "pre_classifier"):  # DistilBERT
        dense, activation = model.pre_classifier, "relu"
    elif config.model_type == "deberta-v2":
        dense, activation = model.pooler.dense, config.pooler_hidden_act
    elif hasattr(head, "out_proj"):  # RoBERTa and its like
        dense, head = head.dense, head.out_proj
        activation = "gelu" if config.model_type == "electra" else "tanh"
    elif config.model_type == "albert":
        dense = encoder.pooler
    elif getattr(encoder, "pooler", None) is not None:
        dense = encoder.pooler.dense
    if not hasattr(head, "weight") or activation not in ("gelu", "relu", "tanh"):
        raise ExportError(f"{source} has a classification head of a kind that isn't known.")
    layers = {"class.weight": head.weight, "class.bias": head.bias}
    if dense is not None:
        bias = dense.bias if dense.bias is not None else torch.zeros(len(dense.weight))
        layers |= {"dense.weight": dense.weight, "dense.bias": bias}
    if norm is not None:
        layers["norm.weight"] = norm.weight
        if getattr(norm, "bias", None) is not None:
            layers["norm.bias"] = norm.bias
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    found = {"activation": activation if dense is not None else None, "pooling": pooling}
    return encoder, layers, {**found, "segments": "token_type_ids" in tokenizer.model_input_names}
