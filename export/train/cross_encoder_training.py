"""Cross-encoder training: trains an encoder to predict whether a text answers a question, and where.

Question and text go through the encoder together, and a logistic regression on the first token's vector gives
the probability that the text answers (Nogueira and Cho 2019, "Passage re-ranking with BERT"). All texts of a
question are in the same batch. One loss classifies each text alone. A second loss makes the answering text
score higher than the question's other texts, which a model that reads only the question can't achieve. A
second layer predicts the answer's span (Devlin et al., 2019, section 4.3). Spans carry more information than
labels, so fewer questions are enough; a device quotes the span.

Runs in a child process (``python -m edgeslm_export.train.cross_encoder_training``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.jobs.device import has_bfloat16
from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.encoder_finetune import LAYER, save_beside
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import (
    TEMPERATURES,
    Training,
    freeze_lowest,
    padded,
    run_training,
)

from edgeslm.bundle.manifest import QUESTION_SHARE
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import torch

LONGEST = 224
"""Maximum number of tokens of question and text together; enough for most passages."""
_PLACES = 0.5
"""Weight of the span loss in the total loss, in which the other losses have weight 1."""
_LAYER_RATES = 8.0
"""Learning rate of the new layers, as a multiple of the encoder's learning rate."""
_NOWHERE = -1e4
_WHAT = "training the reader"


@dataclass(frozen=True, slots=True)
class PairText:
    """A text, whether it answers its question, and if known the answer's span [start, end) in characters."""

    text: str
    answers: bool
    place: tuple[int, int] | None = None
    is_own: bool = True
    """Whether the text comes from the question's row; otherwise it comes from another row."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its texts, at most one of which answers it."""

    question: str
    texts: tuple[PairText, ...]


def train_reader(job: TrainingJob, length: int, asked: Sequence[Asked]) -> dict[str, Any]:
    """Trains an encoder and its layers, which are written to ``LAYER`` in ``job.out``.

    :param length: maximum number of tokens of question and text together.
    :return: the figures of ``run_training``, the ``temperature`` fitted on the validation rows (1 if there
        are none), and ``peak_rss``, the peak memory in bytes.
    :raises ExportError: the checkpoint can't be loaded, its tokenizer gives no offsets, the loss is no longer
        finite, or the time was too short.
    """
    data = {"length": length, "asked": [asdict(one) for one in asked]}
    return job.run("cross_encoder_training", _WHAT, data)


# --- in the child ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairRow:
    """A question with one text. ``kinds`` are token type ids. ``stands`` is 1 for tokens of the text and 0
    for all others. ``place`` is the answer's first and last token, which is (0, 0) if there is no answer and
    None if the answer's span isn't known."""

    tokens: Sequence[int]
    kinds: Sequence[int]
    stands: Sequence[int]
    answers: bool
    place: tuple[int, int] | None


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``train_reader``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    # On CPUs training with eager attention is twice as fast as with fused kernels.
    model = transformers.AutoModel.from_pretrained(
        job.source, dtype=torch.float32, attn_implementation="eager"
    ).to(job.device)
    freeze_lowest(model)
    reader = CrossEncoder(model)
    made = [
        [make_pair_row(tokenizer, one["question"], PairText(**text), task["length"]) for text in one["texts"]]
        for one in task["asked"]
    ]
    # Without its answering text a question would only teach how unanswered questions sound.
    groups = [[] if rows[0] is None else [row for row in rows if row is not None] for rows in made]
    left = [number for number, group in enumerate(groups) if group]
    aside = [place for place, number in enumerate(left) if number in set(job.aside)]
    groups = [groups[number] for number in left]
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    training = Training(
        model,
        [(learned, job.schedule.rate), (reader.layers, job.schedule.rate * _LAYER_RATES)],
        [max(len(row.tokens) for row in group) for group in groups],
        lambda batch: reader.loss([groups[number] for number in batch]),
        aside,
        _WHAT,
        job.state,
        lambda batch: reader.losses_by_temperature([groups[number] for number in batch]),
    )
    figures = run_training(training, job.schedule, reporter)
    model.eval()
    kept = [groups[number] for number in aside]
    temperature = reader.best_temperature(kept, job.schedule.batch) if kept else 1.0
    reader.save(job.source, job.out, temperature)
    return {**figures, "temperature": temperature, "peak_rss": peak_rss_bytes()}


def make_pair_row(tokenizer: Any, question: str, text: PairText, length: int) -> PairRow | None:
    """Tokenizes a question with a text, both truncated as on a device. None if truncation removed the
    answer."""
    alone = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    most = length // QUESTION_SHARE
    encoded = tokenizer(
        question if len(alone) <= most else question[: alone[most - 1][1]],
        text.text,
        truncation="only_second",
        max_length=length,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    stands = [int(of == 1) for of in encoded.sequence_ids()]
    place: tuple[int, int] | None = None if text.answers else (0, 0)
    if text.answers and text.place is not None:
        start, end = text.place
        covered = [
            token
            for token, (first, last) in enumerate(encoded.offset_mapping)
            if stands[token] and first < last and first < end and start < last
        ]
        if not covered:
            return None
        place = (covered[0], covered[-1])
    return PairRow(encoded.input_ids, encoded.token_type_ids, stands, text.answers, place)


class CrossEncoder:
    """The encoder with a layer for the probability of an answer and one for its span."""

    def __init__(self, model: Any) -> None:
        import torch

        self._model = model
        self._padding = model.config.pad_token_id or 0  # RoBERTa derives positions from it
        self._has_kinds = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._in_bfloat16 = has_bfloat16(model.device)
        size = model.config.hidden_size
        self._answers, self._places = (torch.nn.Linear(size, outputs).to(model.device) for outputs in (1, 2))

    @property
    def layers(self) -> list[torch.nn.Parameter]:
        return [*self._answers.parameters(), *self._places.parameters()]

    def _read(self, rows: Sequence[PairRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [rows] of whether a text answers, and logits [rows, longest, 2] of each token being the
        first or the last token of the answer. Token 0 stands for no answer."""
        import torch

        device = self._model.device
        tokens, mask = padded([row.tokens for row in rows], self._padding, device)
        kinds, _ = padded([row.kinds for row in rows], 0, device)
        extra = {"token_type_ids": kinds} if self._has_kinds else {}
        with torch.autocast(device.type, torch.bfloat16, enabled=self._in_bfloat16):
            hidden = self._model(input_ids=tokens, attention_mask=mask, **extra).last_hidden_state
        hidden = hidden.float()
        stands, _ = padded([row.stands for row in rows], 0, device)
        stands[:, 0] = 1
        places = self._places(hidden).masked_fill(stands.unsqueeze(-1) == 0, _NOWHERE)
        return self._answers(hidden[:, 0])[:, 0], places

    def loss(self, groups: Sequence[Sequence[PairRow]]) -> torch.Tensor:
        import torch

        rows = [row for group in groups for row in group]
        logits, places = self._read(rows)
        wanted = torch.tensor([float(row.answers) for row in rows], device=logits.device)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        known = [number for number, row in enumerate(rows) if row.place is not None]
        if known:
            aims = torch.tensor([rows[number].place for number in known], device=logits.device)
            loss = loss + _PLACES * torch.nn.functional.cross_entropy(places[known], aims)
        compared = [
            torch.nn.functional.cross_entropy(of_group, of_group_wanted)
            for group, of_group, of_group_wanted in zip(
                groups,
                *(part.split([len(group) for group in groups]) for part in (logits, wanted)),
                strict=True,
            )
            if len(group) > 1 and any(row.answers for row in group)
        ]
        return loss + torch.stack(compared).mean() if compared else loss

    def losses_by_temperature(self, groups: Sequence[Sequence[PairRow]]) -> torch.Tensor:
        """Mean classification loss of each group (the rows of a question) at each temperature, [temperatures,
        groups]."""
        import torch

        rows = [row for group in groups for row in group]
        logits, _ = self._read(rows)
        wanted = torch.tensor([float(row.answers) for row in rows], device=logits.device)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        losses = torch.stack([entropy(logits / each, wanted, reduction="none") for each in TEMPERATURES])
        return torch.stack([part.mean(1) for part in losses.split([len(group) for group in groups], 1)], 1)

    def best_temperature(self, groups: Sequence[Sequence[PairRow]], batch: int) -> float:
        import torch

        with torch.no_grad():
            parts = [
                self.losses_by_temperature(groups[at : at + batch]) for at in range(0, len(groups), batch)
            ]
        return TEMPERATURES[int(torch.cat(parts, 1).mean(1).argmin())]

    def save(self, source: Path, out: Path, temperature: float) -> None:
        import numpy as np

        save_beside(self._model, source, out)
        arrays: dict[str, Any] = {
            name: (value.detach().cpu().numpy() / temperature).astype(np.float32)
            for name, value in zip(("weight", "bias"), self._answers.parameters(), strict=True)
        }
        places = zip(("place_weight", "place_bias"), self._places.parameters(), strict=True)
        np.savez(out / LAYER, **arrays, **{name: value.detach().cpu().numpy() for name, value in places})


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
