"""Contrastive fine-tuning (SetFit) of an encoder on pairs of few labelled texts, in PyTorch.

The cosine of two texts' vectors is trained towards 1 for equal labels and 0 for different ones, so a few rows
make many pairs (Tunstall et al., 2022, "Efficient few-shot learning without prompts"). Afterwards a
classifier is trained on the embeddings that a device computes. With more rows, ``encoder_finetune`` trains on
labels directly.

Runs in a child process (``python -m edgeslm_export.train.contrastive``).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from itertools import combinations_with_replacement, cycle, islice
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.encoder_finetune import pooled, save_beside
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import Schedule, Training, padded, run_training

from edgeslm.bundle.manifest import EncoderSection
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import torch

PAIRS: Final = Schedule(epochs=1, batch=16, rate=2e-5)
MOST_PAIRS: Final = 3200
"""Maximum number of pairs, which limits the training time. 50 rows of six labels make about 2,100 pairs; a
larger limit was not measured."""
_WHAT = "training the encoder by pairs"


def train_contrastive(
    job: TrainingJob, section: EncoderSection, length: int, texts: Sequence[str], truth: Sequence[int]
) -> dict[str, Any]:
    """Trains an encoder on pairs of texts; the batch size in ``job.schedule`` is a number of pairs.

    :param section: the encoder's pooling. :param length: maximum number of tokens of a text.
    :param truth: [texts], the index of each text's label.
    :return: the figures of ``run_training``, and ``peak_rss``, the peak memory in bytes.
    :raises ExportError: the checkpoint can't be loaded, the loss is no longer finite, or the time was too
        short for half of the pairs.
    """
    data = {"pooling": section.pooling, "length": length, "texts": list(texts), "truth": list(truth)}
    return job.run("contrastive", _WHAT, data)


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``train_contrastive``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    # float32, whatever the checkpoint has: small steps vanish in 16 bits.
    model = transformers.AutoModel.from_pretrained(job.source, dtype=torch.float32).to(job.device)
    rows = [tokenizer(text, truncation=True, max_length=task["length"]).input_ids for text in task["texts"]]
    padding = model.config.pad_token_id or 0  # RoBERTa derives positions from it
    truth = task["truth"]
    pairs = draw_pairs(truth, job.schedule.seed)

    def loss(batch: Sequence[int]) -> torch.Tensor:
        """Mean squared error of the pairs' cosines."""
        both = zip(*(pairs[number] for number in batch), strict=True)
        tokens, mask = padded([rows[row] for side in both for row in side], padding, model.device)
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        ones, others = pooled(hidden, mask, task["pooling"], normalize=True).chunk(2)
        alike = torch.tensor(
            [float(truth[one] == truth[other]) for one, other in map(pairs.__getitem__, batch)],
            device=model.device,
        )
        return torch.nn.functional.mse_loss((ones * others).sum(1), alike)

    lengths = [max(len(rows[one]), len(rows[other])) for one, other in pairs]
    training = Training(
        model, [(list(model.parameters()), job.schedule.rate)], lengths, loss, job.aside, _WHAT, job.state
    )
    figures = run_training(training, job.schedule, reporter)
    save_beside(model, job.source, job.out)
    return {**figures, "peak_rss": peak_rss_bytes()}


def draw_pairs(truth: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """Draws equally many pairs with equal and with different labels, at most ``MOST_PAIRS`` in total.

    Pairs of the rarer kind are repeated. A row may be paired with itself.

    :param truth: [rows], the index of each row's label.
    """
    pairs = list(combinations_with_replacement(range(len(truth)), 2))
    random.Random(seed).shuffle(pairs)
    alike = [(one, other) for one, other in pairs if truth[one] == truth[other]]
    apart = [(one, other) for one, other in pairs if truth[one] != truth[other]]
    of_each = min(MOST_PAIRS // 2, max(len(alike), len(apart)))
    return [pair for kind in (alike, apart) for pair in islice(cycle(kind), of_each)]


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
