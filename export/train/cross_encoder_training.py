"""A small encoder taught to read a question and a text at once and to tell whether the text answers it.

Both go through the encoder together, so that each word of the one is weighed against each of the other, and
a logistic regression on the first token's vector says how likely the text is an answer (Nogueira and Cho
2019, "Passage re-ranking with BERT"). A question is learned from with all its texts at once: each is judged
alone, and the one that answers held against the others, which the question's own words can't decide. While
it learns, a second layer looks for the words that are the answer (Devlin et al. 2019, section 4.3): a place
tells far more than a yes, and fewer questions are enough; on a device it says what is quoted. How it descends
is in ``edgeslm_export.train.loop``.

The work runs in a child process (``python -m edgeslm_export.train.cross_encoder_training``). Knows no bundle.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.encoder_finetune import LAYER, save_beside
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import (
    TEMPERATURES,
    Course,
    descend,
    has_halves,
    padded,
    spare_lowest,
)

from edgeslm.bundle.manifest import QUESTION_SHARE
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import torch

LONGEST = 224
"""Tokens of both together that are learned from: most questions with most passages."""
_PLACES = 0.5
"""What finding the place counts beside telling whether there is one."""
_LAYER_RATES = 8.0
"""Times the rate of the encoder, which knows something already."""
_NOWHERE = -1e4
_WHAT = "teaching the reader"


@dataclass(frozen=True, slots=True)
class PairText:
    """Whether it answers its question, and where the answer stands in it, if that is known: from the first
    character to behind the last."""

    text: str
    answers: bool
    place: tuple[int, int] | None = None
    is_own: bool = True
    """Of the question, or of another one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its texts, at most one of which answers it."""

    question: str
    texts: tuple[PairText, ...]


def teach_reader(job: TrainingJob, length: int, asked: Sequence[Asked]) -> dict[str, Any]:
    """Teaches an encoder and a layer on it, which is ``LAYER`` in ``job.out``.

    :param length: tokens of question and text together that are learned from.
    :return: what ``descend`` says, ``temperature``, by which logits of those aside are divided best (1
        without any), and ``peak_rss`` in bytes.
    :raises ExportError: the checkpoint can't be loaded, has no tokenizer that tells offsets, computes no
        numbers any more, or the time was too short.
    """
    data = {"length": length, "asked": [asdict(one) for one in asked]}
    return job.run("cross_encoder_training", _WHAT, data)


# --- in the child ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _PairRow:
    """A question with one text. ``kinds``: of each token, 0 or 1, as the model is told which it is of.
    ``stands``: 1 of the text's own. ``place``: the first and last token of the answer, (0, 0) where there is
    none, None where it isn't known."""

    tokens: Sequence[int]
    kinds: Sequence[int]
    stands: Sequence[int]
    answers: bool
    place: tuple[int, int] | None


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """What the child does; the task is that of ``teach_reader``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    # Attention in plain operations: on CPUs it learns twice as fast as by fused kernels.
    model = transformers.AutoModel.from_pretrained(
        job.source, dtype=torch.float32, attn_implementation="eager"
    )
    spare_lowest(model)
    reader = _CrossEncoder(model)
    made = [
        [_make_row(tokenizer, one["question"], PairText(**text), task["length"]) for text in one["texts"]]
        for one in task["asked"]
    ]
    # Without the text that answers, the others would teach how a question is asked.
    groups = [[] if rows[0] is None else [row for row in rows if row is not None] for rows in made]
    left = [number for number, group in enumerate(groups) if group]
    aside = [place for place, number in enumerate(left) if number in set(job.aside)]
    groups = [groups[number] for number in left]
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    course = Course(
        model,
        [(learned, job.schedule.rate), (reader.layers, job.schedule.rate * _LAYER_RATES)],
        [max(len(row.tokens) for row in group) for group in groups],
        lambda batch: reader.loss([groups[number] for number in batch]),
        aside,
        _WHAT,
        job.state,
        lambda batch: reader.tempered([groups[number] for number in batch]),
    )
    figures = descend(course, job.schedule, reporter)
    model.eval()
    kept = [groups[number] for number in aside]
    temperature = reader.best_temperature(kept, job.schedule.batch) if kept else 1.0
    reader.save(job.source, job.out, temperature)
    return {**figures, "temperature": temperature, "peak_rss": peak_rss_bytes()}


def _make_row(tokenizer: Any, question: str, text: PairText, length: int) -> _PairRow | None:
    """Both are cut as on a device, where they are too long. None for a text whose answer was cut off."""
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
    return _PairRow(encoded.input_ids, encoded.token_type_ids, stands, text.answers, place)


class _CrossEncoder:
    """The encoder, the layer that says how likely it is, and the one that looks for the place."""

    def __init__(self, model: Any) -> None:
        import torch

        self._model = model
        self._padding = model.config.pad_token_id or 0  # the model's own: RoBERTa counts positions by it
        self._has_kinds = (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._in_halves = has_halves()
        size = model.config.hidden_size
        self._answers, self._places = torch.nn.Linear(size, 1), torch.nn.Linear(size, 2)

    @property
    def layers(self) -> list[torch.nn.Parameter]:
        return [*self._answers.parameters(), *self._places.parameters()]

    def _read(self, rows: Sequence[_PairRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [rows] of being an answer; [rows, longest, 2] of each token being its first or last, the
        first token of all standing for nowhere."""
        import torch

        tokens, mask = padded([row.tokens for row in rows], self._padding)
        kinds, _ = padded([row.kinds for row in rows], 0)
        extra = {"token_type_ids": kinds} if self._has_kinds else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self._in_halves):
            hidden = self._model(input_ids=tokens, attention_mask=mask, **extra).last_hidden_state
        hidden = hidden.float()
        stands, _ = padded([row.stands for row in rows], 0)
        stands[:, 0] = 1
        places = self._places(hidden).masked_fill(stands.unsqueeze(-1) == 0, _NOWHERE)
        return self._answers(hidden[:, 0])[:, 0], places

    def loss(self, groups: Sequence[Sequence[_PairRow]]) -> torch.Tensor:
        import torch

        rows = [row for group in groups for row in group]
        logits, places = self._read(rows)
        wanted = torch.tensor([float(row.answers) for row in rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        known = [number for number, row in enumerate(rows) if row.place is not None]
        if known:
            aims = torch.tensor([rows[number].place for number in known])
            loss = loss + _PLACES * torch.nn.functional.cross_entropy(places[known], aims)
        compared = [
            torch.nn.functional.cross_entropy(of_group, torch.tensor([row.answers for row in group]).float())
            for group, of_group in zip(groups, logits.split([len(group) for group in groups]), strict=True)
            if len(group) > 1 and any(row.answers for row in group)
        ]
        return loss + torch.stack(compared).mean() if compared else loss

    def tempered(self, groups: Sequence[Sequence[_PairRow]]) -> torch.Tensor:
        """[temperatures, groups]: the mean loss of whether each text is an answer."""
        import torch

        rows = [row for group in groups for row in group]
        logits, _ = self._read(rows)
        wanted = torch.tensor([float(row.answers) for row in rows])
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        losses = torch.stack([entropy(logits / each, wanted, reduction="none") for each in TEMPERATURES])
        return torch.stack([part.mean(1) for part in losses.split([len(group) for group in groups], 1)], 1)

    def best_temperature(self, groups: Sequence[Sequence[_PairRow]], batch: int) -> float:
        import torch

        with torch.no_grad():
            parts = [self.tempered(groups[at : at + batch]) for at in range(0, len(groups), batch)]
        return TEMPERATURES[int(torch.cat(parts, 1).mean(1).argmin())]

    def save(self, source: Path, out: Path, temperature: float) -> None:
        import numpy as np

        save_beside(self._model, source, out)
        arrays: dict[str, Any] = {
            name: (value.detach().numpy() / temperature).astype(np.float32)
            for name, value in zip(("weight", "bias"), self._answers.parameters(), strict=True)
        }
        places = zip(("place_weight", "place_bias"), self._places.parameters(), strict=True)
        np.savez(out / LAYER, **arrays, **{name: value.detach().numpy() for name, value in places})


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
