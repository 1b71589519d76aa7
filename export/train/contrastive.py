"""A small encoder taught from few labelled texts, by pairs of them in PyTorch.

Texts of one label are drawn together and those of two apart, so that a few rows make many pairs, and the
cosine of their vectors is taught to be 1 or 0 (SetFit: Tunstall et al. 2022, "Efficient few-shot learning
without prompts"). What comes out is an encoder; a classifier on its embeddings is learned afterwards, on what
the device computes. With more rows ``encoder_finetune`` teaches by the labels themselves. How it descends is
in ``edgeslm_export.train.loop``.

The work runs in a child process (``python -m edgeslm_export.train.contrastive``). Knows no bundle.
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
from edgeslm_export.train.loop import Course, Schedule, descend, padded

from edgeslm.bundle.manifest import EncoderSection
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import torch

PAIRS: Final = Schedule(epochs=1, batch=16, rate=2e-5)
MOST_PAIRS: Final = 3200
"""For the time that they take. 50 rows of six labels have some 2,100; whether more rows would gain by more
pairs was not measured."""
_WHAT = "teaching the encoder by pairs"


def contrast_encoder(
    job: TrainingJob, section: EncoderSection, length: int, texts: Sequence[str], truth: Sequence[int]
) -> dict[str, Any]:
    """Teaches an encoder by pairs of texts; ``job.schedule`` counts pairs as rows.

    :param section: how a device pools; ``length``: the tokens of a text that are learned from.
    :param truth: [texts], the number of each text's label.
    :return: what ``descend`` says, and ``peak_rss`` in bytes.
    :raises ExportError: the checkpoint can't be loaded, computes no numbers any more, or the time was too
        short for half of the pairs.
    """
    data = {"pooling": section.pooling, "length": length, "texts": list(texts), "truth": list(truth)}
    return job.run("contrastive", _WHAT, data)


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """What the child does; the task is that of ``contrast_encoder``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    # In float32, whatever the checkpoint is stored in: small steps vanish in 16 bits.
    model = transformers.AutoModel.from_pretrained(job.source, dtype=torch.float32)
    rows = [tokenizer(text, truncation=True, max_length=task["length"]).input_ids for text in task["texts"]]
    padding = model.config.pad_token_id or 0  # the model's own: RoBERTa counts positions by it
    truth = task["truth"]
    pairs = draw_pairs(truth, job.schedule.seed)

    def loss(batch: Sequence[int]) -> torch.Tensor:
        """Mean square of what the pairs' cosines are wrong by."""
        both = zip(*(pairs[number] for number in batch), strict=True)
        tokens, mask = padded([rows[row] for side in both for row in side], padding)
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        ones, others = pooled(hidden, mask, task["pooling"], normalize=True).chunk(2)
        alike = torch.tensor(
            [float(truth[one] == truth[other]) for one, other in map(pairs.__getitem__, batch)]
        )
        return torch.nn.functional.mse_loss((ones * others).sum(1), alike)

    lengths = [max(len(rows[one]), len(rows[other])) for one, other in pairs]
    course = Course(
        model, [(list(model.parameters()), job.schedule.rate)], lengths, loss, job.aside, _WHAT, job.state
    )
    figures = descend(course, job.schedule, reporter)
    save_beside(model, job.source, job.out)
    return {**figures, "peak_rss": peak_rss_bytes()}


def draw_pairs(truth: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """As many pairs of rows with one label as with two, ``MOST_PAIRS`` in all: each pair once or, of the kind
    that there are fewer of, several times. A row makes a pair with itself too.

    :param truth: [rows], the number of each row's label.
    """
    pairs = list(combinations_with_replacement(range(len(truth)), 2))
    random.Random(seed).shuffle(pairs)
    alike = [(one, other) for one, other in pairs if truth[one] == truth[other]]
    apart = [(one, other) for one, other in pairs if truth[one] != truth[other]]
    of_each = min(MOST_PAIRS // 2, max(len(alike), len(apart)))
    return [pair for kind in (alike, apart) for pair in islice(cycle(kind), of_each)]


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
