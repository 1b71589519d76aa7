"""Cross-encoder import: splits a trained cross-encoder (such as one of sentence-transformers for MS MARCO)
into encoder and head.

The encoder is saved as a checkpoint, which ``models.encoder`` exports. The head is saved as layers that a
device computes (``models.classifier_head``); the logit of the last one says whether the second text answers
the first (Devlin et al., 2019; ``BertForSequenceClassification`` etc. in transformers).

Runs in a child process (``python -m edgeslm_export.train.cross_encoder``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import OnProgress, Reporter, run_module
from edgeslm_export.models.classifier_head import HEAD_NAMES, split_classifier
from edgeslm_export.train.encoder_finetune import LAYER, save_beside

from edgeslm.errors import ExportError


def take_apart(
    source: Path, out: Path, *, on_progress: OnProgress | None = None, debug: bool = False
) -> dict[str, Any]:
    """Writes the encoder of the checkpoint folder ``source``, and the head's layers as ``LAYER``, to ``out``.

    :return: the head's ``activation`` (None: it has no dense layer) and its ``pooling``.
    :raises ExportError: the checkpoint can't be loaded, has several labels, or has an unknown head.
    """
    task = {"source": str(source), "out": str(out)}
    return run_module(
        "train.cross_encoder", task, "reading the cross-encoder", on_progress=on_progress, debug=debug
    )


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``take_apart``."""
    import numpy as np
    import transformers

    transformers.utils.logging.set_verbosity_error()
    source, out = Path(task["source"]), Path(task["out"])
    reporter.progress(0, 1, "loading libraries")
    encoder, layers, found = split_classifier(source)
    if (count := len(layers["class.weight"])) != 1:
        raise ExportError(
            f"{source} tells {count} labels apart; a reader says one number, how likely a text answers a "
            "question."
        )
    save_beside(encoder, source, out)
    encoder.config.architectures = [type(encoder).__name__]  # the source names the cross-encoder's class
    encoder.config.save_pretrained(out)
    np.savez(out / LAYER, **{HEAD_NAMES[name]: value.detach().numpy() for name, value in layers.items()})
    return {name: found[name] for name in ("activation", "pooling")}


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
