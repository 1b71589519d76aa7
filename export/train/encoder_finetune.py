"""Encoder fine-tuning: trains an encoder and a linear layer on labelled texts, in PyTorch.

The model computes the same as a device: it multiplies the pooled vector, normalized if the bundle normalizes
vectors, by the layer's weights. The loss is cross-entropy with the labels or with a teacher's soft labels
(Devlin et al., 2019; Hinton et al., 2015).

Runs in a child process (``python -m edgeslm_export.train.encoder_finetune``).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import TEMPERATURES, Schedule, Training, padded, run_training

from edgeslm.bundle.manifest import EncoderSection
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

LAYER = "layer.npz"
"""File in a trained checkpoint with ``weight`` [labels, dimension] and ``bias`` [labels], float32."""
LONGEST = 256
"""Maximum number of tokens of a text in training, unless the model's context is shorter. On a device, texts
may be longer."""

WHAT = "training the encoder"
LAYER_RATE = 1e-3
UNIT_SCALE = 16.0
"""Factor by which normalized vectors are multiplied: without the factor, the logits would be too close to
each other."""
_SMALL = (".json", ".txt", ".model")
"""Suffixes of a checkpoint's small files: all files except the weights."""


def schedule_for(rows: int) -> Schedule:
    """Schedule of about 300 steps, in 5 to 20 epochs."""
    batch = 16 if rows < 1000 else 32
    epochs = min(20, max(5, -(-300 * batch // rows)))
    return Schedule(epochs, batch, rate=1e-4)


def train_encoder(
    job: TrainingJob,
    section: EncoderSection,
    length: int,
    texts: Sequence[str],
    truth: Sequence[int] | Sequence[Sequence[float]],
    labels: int,
) -> dict[str, Any]:
    """Trains an encoder and a layer, which is written to ``LAYER`` in ``job.out``.

    :param section: the encoder's pooling. :param length: maximum number of tokens of a text.
    :param truth: [texts], indices below ``labels``; or [texts, labels], probabilities.
    :return: the figures of ``run_training``, and ``peak_rss``, the peak memory in bytes.
    :raises ExportError: the checkpoint can't be loaded, the loss is no longer finite, or the time was too
        short for half an epoch.
    """
    data = {
        "pooling": section.pooling,
        "normalize": section.normalize,
        "length": length,
        "texts": list(texts),
        "truth": list(truth),
        "labels": labels,
    }
    return job.run("encoder_finetune", WHAT, data)


def load_layer(taught: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``weight`` [labels, dimension] and ``bias`` [labels] of a trained checkpoint."""
    import numpy as np

    with np.load(taught / LAYER, allow_pickle=False) as arrays:
        return arrays["weight"], arrays["bias"]


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``train_encoder``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    model = transformers.AutoModel.from_pretrained(job.source, dtype=torch.float32).to(job.device)
    classifier = Classifier(model, task["labels"], task["pooling"], task["normalize"])
    rows = [tokenizer(text, truncation=True, max_length=task["length"]).input_ids for text in task["texts"]]
    padding = model.config.pad_token_id or 0  # RoBERTa derives positions from it
    truth = torch.tensor(task["truth"], device=job.device)

    def losses(batch: Sequence[int], temperatures: Sequence[float]) -> torch.Tensor:
        """[temperatures, rows]"""
        tokens, mask = padded([rows[row] for row in batch], padding, model.device)
        logits, wanted = classifier.logits(tokens, mask), truth[list(batch)]
        entropy = torch.nn.functional.cross_entropy
        return torch.stack([entropy(logits / each, wanted, reduction="none") for each in temperatures])

    training = Training(
        model,
        [(list(model.parameters()), job.schedule.rate), (list(classifier.layer.parameters()), LAYER_RATE)],
        list(map(len, rows)),
        lambda batch: losses(batch, (1.0,)).mean(),
        job.aside,
        WHAT,
        job.state,
        lambda batch: losses(batch, TEMPERATURES),
    )
    figures = run_training(training, job.schedule, reporter)
    _save(classifier, job.source, job.out)
    return {**figures, "peak_rss": peak_rss_bytes()}


class Classifier:
    """The encoder with a linear ``layer``, which is applied to the pooled vector times ``scale``."""

    def __init__(self, model: Any, labels: int, pooling: str, normalize: bool) -> None:
        import torch

        self.model, self._pooling, self._normalize = model, pooling, normalize
        self.scale = UNIT_SCALE if normalize else 1.0
        self.layer = torch.nn.Linear(model.config.hidden_size, labels).to(model.device)

    def logits(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [rows, labels], for ``tokens`` and ``mask``, both [rows, longest]."""
        import torch

        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        vectors = pooled(hidden, mask, self._pooling, normalize=self._normalize)
        return torch.as_tensor(self.layer(vectors * self.scale))


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str, *, normalize: bool) -> torch.Tensor:
    """Pools token vectors [rows, longest, dimension] to [rows, dimension], as a device does."""
    import torch

    if pooling == "cls":
        vectors = hidden[:, 0]
    else:
        kept = mask.unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * kept).sum(1) / kept.sum(1)
    return torch.nn.functional.normalize(vectors) if normalize else vectors


def _save(classifier: Classifier, source: Path, out: Path) -> None:
    import numpy as np

    save_beside(classifier.model, source, out)
    weight, bias = (
        value.detach().cpu().numpy() for value in (classifier.layer.weight, classifier.layer.bias)
    )
    np.savez(out / LAYER, weight=(weight * classifier.scale).astype(np.float32), bias=bias.astype(np.float32))


def save_beside(model: Any, source: Path, out: Path) -> None:
    """Saves a transformers ``model`` in ``out``, with the other files of its checkpoint ``source``."""
    model.save_pretrained(out)
    small = [file for file in (*source.iterdir(), *source.glob("*/config.json")) if file.suffix in _SMALL]
    for file in small:
        if file.is_file() and not file.name.endswith(".index.json"):
            copy = out / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
