"""Cross-encoder import: splits a trained cross-encoder (such as one of sentence-transformers for MS MARCO)
into encoder and head.

The encoder is saved as a checkpoint, which ``models.encoder`` exports. The head is saved as layers that a
device computes: a dense layer with tanh (the model's pooler or a part of the head), if the model has one, and
a layer whose logit says whether the second text answers the first (Devlin et al., 2019;
``BertForSequenceClassification`` etc. in transformers).

Runs in a child process (``python -m edgeslm_export.train.cross_encoder``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import OnProgress, Reporter, run_module
from edgeslm_export.train.encoder_finetune import LAYER, save_beside

from edgeslm.errors import ExportError


def take_apart(
    source: Path, out: Path, *, on_progress: OnProgress | None = None, debug: bool = False
) -> None:
    """Writes the encoder of the checkpoint folder ``source``, and the head's layers as ``LAYER``, to ``out``.

    :raises ExportError: the checkpoint can't be loaded, has several labels, or has an unknown head.
    """
    task = {"source": str(source), "out": str(out)}
    run_module("train.cross_encoder", task, "reading the cross-encoder", on_progress=on_progress, debug=debug)


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``take_apart``."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    source, out = Path(task["source"]), Path(task["out"])
    reporter.progress(0, 1, "loading libraries")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    if model.config.num_labels != 1:
        raise ExportError(
            f"{source} tells {model.config.num_labels} labels apart; a reader says one number, how likely a "
            "text answers a question."
        )
    arrays, encoder = _layers(model), model.base_model
    save_beside(encoder, source, out)
    encoder.config.architectures = [type(encoder).__name__]  # the source names the cross-encoder's class
    encoder.config.save_pretrained(out)
    import numpy as np

    np.savez(out / LAYER, **{name: value.detach().numpy() for name, value in arrays.items()})
    return {}


def _layers(model: Any) -> dict[str, Any]:
    """A dict with the head's ``weight`` [1, dimension] and ``bias`` [1]; if the head has a dense layer, also
    that layer's weights ``dense`` [dimension, dimension] and bias ``dense_bias``."""
    head, pooler = model.classifier, getattr(model.base_model, "pooler", None)
    dense, last = (head.dense, head.out_proj) if hasattr(head, "out_proj") else (None, head)
    if dense is None and pooler is not None:
        dense = pooler.dense
    if not hasattr(last, "weight") or last.weight.shape[0] != 1:
        raise ExportError("This cross-encoder's head is of a kind that isn't known; take one of BERT's kind.")
    layers = {"weight": last.weight, "bias": last.bias}
    return layers if dense is None else {**layers, "dense": dense.weight, "dense_bias": dense.bias}


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
