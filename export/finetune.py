"""A small encoder and a linear layer on top of it, both taught from labelled texts in PyTorch.

What is taught is what a device computes: the pooled vector, normalized where the encoder's bundle does that,
times the layer's weights. AdamW (Loshchilov and Hutter 2019) with a warm-up and a linear decay, as encoders
are usually fine-tuned (Devlin et al. 2019); cross-entropy over the labels. With a time budget the decay
follows the clock, so that a run that is cut short has cooled down all the same.

The work runs in a child process (``python -m edgeslm_export.finetune``). Knows no bundle.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.child import OnProgress, Reporter, run_module

from edgeslm.bundle import EncoderSection
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

LAYER = "layer.npz"
"""``weight`` [labels, dimension] and ``bias`` [labels], float32, of a taught checkpoint."""
LONGEST = 256
"""Tokens of a text that are learned from, where the model reads so many; a device reads on."""
NOT_FINITE = "Teaching the encoder gave numbers that aren't finite; try another encoder."

_LAYER_RATE = 1e-3
_WARM_UP = 0.1
_DECAY = 0.01
_MOST_NORM = 1.0
_UNIT_SCALE = 16.0
"""A normalized vector times this: logits of unit vectors could not be told apart otherwise."""
_BUCKET = 16
"""Batches whose texts are sorted by length together, so that little is computed on padding."""
_SMALL = (".json", ".txt", ".model")
"""Files of a checkpoint that are no weights."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. ``seconds`` 0 means as long as ``epochs`` take."""

    epochs: int
    batch: int
    rate: float
    seconds: float = 0.0
    seed: int = 0


def schedule_for(rows: int) -> Schedule:
    """Epochs and batch for so many rows: at least some 300 steps, where that takes no more than 20 epochs."""
    batch = 16 if rows < 1000 else 32
    epochs = min(20, max(5, -(-300 * batch // rows)))
    return Schedule(epochs, batch, rate=1e-4)


def teach_encoder(
    source: Path,
    out: Path,
    section: EncoderSection,
    length: int,
    texts: Sequence[str],
    truth: Sequence[int],
    labels: int,
    schedule: Schedule,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """Teaches the checkpoint folder ``source`` and writes the taught one, with ``LAYER``, to ``out``.

    :param section: how a device pools; ``length``: the tokens of a text that are learned from.
    :param truth: [texts], indices below ``labels``.
    :return: ``epochs``, as far as the budget went, and the last ``loss``.
    :raises ExportError: the checkpoint can't be loaded, computes no numbers any more, or the time was too
        short for one epoch.
    """
    task = {
        "source": str(source),
        "out": str(out),
        "pooling": section.pooling,
        "normalize": section.normalize,
        "length": length,
        "texts": list(texts),
        "truth": list(truth),
        "labels": labels,
        "schedule": asdict(schedule),
    }
    return run_module("finetune", task, "teaching the encoder", on_progress=on_progress, debug=debug)


def load_layer(taught: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``weight`` [labels, dimension] and ``bias`` [labels] for the vectors of a taught checkpoint."""
    import numpy as np

    with np.load(taught / LAYER, allow_pickle=False) as arrays:
        return arrays["weight"], arrays["bias"]


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """What the child does; the task is that of ``teach_encoder``."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    source, schedule = Path(task["source"]), Schedule(**task["schedule"])
    torch.manual_seed(schedule.seed)
    reporter.progress(0, 1, "loading libraries")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32)
    pupil = _Pupil(model, task["labels"], task["pooling"], task["normalize"])
    rows = [tokenizer(text, truncation=True, max_length=task["length"]).input_ids for text in task["texts"]]
    padding = model.config.pad_token_id or 0  # the model's own: RoBERTa counts positions by it
    figures = _train(pupil, rows, torch.tensor(task["truth"]), padding, schedule, reporter)
    _save(pupil, source, Path(task["out"]))
    return figures


class _Pupil:
    """The encoder and the layer. ``layer`` is applied to the vector times ``scale``."""

    def __init__(self, model: Any, labels: int, pooling: str, normalize: bool) -> None:
        import torch

        self.model, self._pooling, self._normalize = model, pooling, normalize
        self.scale = _UNIT_SCALE if normalize else 1.0
        self.layer = torch.nn.Linear(model.config.hidden_size, labels)

    def logits(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[rows, labels] of tokens and mask [rows, longest]."""
        import torch

        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            vectors = hidden[:, 0]
        else:
            kept = mask.unsqueeze(-1).to(hidden.dtype)
            vectors = (hidden * kept).sum(1) / kept.sum(1)
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors)
        return torch.as_tensor(self.layer(vectors * self.scale))


def _train(
    pupil: _Pupil,
    rows: Sequence[Sequence[int]],
    truth: torch.Tensor,
    padding: int,
    schedule: Schedule,
    reporter: Reporter,
) -> dict[str, Any]:
    import torch

    weights, layer = list(pupil.model.parameters()), list(pupil.layer.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": weights, "lr": schedule.rate}, {"params": layer, "lr": _LAYER_RATE}], weight_decay=_DECAY
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    steps_an_epoch = -(-len(rows) // schedule.batch)
    steps = steps_an_epoch * schedule.epochs
    started, step, loss = time.monotonic(), 0, torch.zeros(())
    pupil.model.train()
    for batch in _batches(rows, schedule):
        done = step / steps
        if schedule.seconds:
            done = max(done, (time.monotonic() - started) / schedule.seconds)
        if done >= 1:
            break
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (done + 1 / steps) / _WARM_UP) * (1 - done)
        tokens, mask = _padded([rows[row] for row in batch], padding)
        loss = torch.nn.functional.cross_entropy(pupil.logits(tokens, mask), truth[batch])
        if not torch.isfinite(loss):
            raise ExportError(NOT_FINITE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*weights, *layer], _MOST_NORM)
        optimizer.step()
        step += 1
        reporter.progress(step, steps, f"teaching the encoder, epoch {-(-step // steps_an_epoch)}")
    if step < steps_an_epoch:
        raise ExportError(
            f"Teaching the encoder got through {step} of {steps_an_epoch} batches in its time, once through "
            "being the least; allow more --minutes, or take the method head."
        )
    return {"epochs": round(step / steps_an_epoch, 2), "loss": round(float(loss), 4)}


def _batches(rows: Sequence[Sequence[int]], schedule: Schedule) -> Iterator[list[int]]:
    """Row numbers of one batch after the other, in another order each epoch."""
    shuffle, size = random.Random(schedule.seed), schedule.batch
    for _ in range(schedule.epochs):
        order = list(range(len(rows)))
        shuffle.shuffle(order)
        bucket = size * _BUCKET
        for at in range(0, len(order), bucket):
            order[at : at + bucket] = sorted(order[at : at + bucket], key=lambda row: len(rows[row]))
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        shuffle.shuffle(batches)
        yield from batches


def _padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), padding)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return tokens, mask


def _save(pupil: _Pupil, source: Path, out: Path) -> None:
    import numpy as np

    save_beside(pupil.model, source, out)
    weight, bias = (value.detach().numpy() for value in (pupil.layer.weight, pupil.layer.bias))
    np.savez(out / LAYER, weight=(weight * pupil.scale).astype(np.float32), bias=bias.astype(np.float32))


def save_beside(model: Any, source: Path, out: Path) -> None:
    """The weights of a transformers ``model`` in ``out`` with the other files of the checkpoint that it was
    loaded from, so that what reads the one reads the other."""
    model.save_pretrained(out)
    small = [file for file in (*source.iterdir(), *source.glob("*/config.json")) if file.suffix in _SMALL]
    for file in small:
        if file.is_file() and not file.name.endswith(".index.json"):
            copy = out / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
