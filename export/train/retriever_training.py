"""Contrastive training of a retriever: moves questions' vectors towards those of answering texts.

A batch has texts of several sources. The negatives of a question are all texts of the batch, except texts
with the same ``kin`` as the question's own text, which count as equal to it (in-batch negatives, Karpukhin et
al., 2020, "Dense passage retrieval for open-domain question answering", section 3.2).

Runs in a child process (``python -m edgeslm_export.train.retriever_training``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeslm_export.jobs.device import has_bfloat16
from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.encoder_finetune import pooled, save_beside
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import Training, freeze_lowest, padded, run_training

from edgeslm.bundle.manifest import EncoderSection
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import torch

_TEMPERATURE = 0.05
"""Softmax temperature of cosines, as in sentence-transformers (scale 20)."""
_LONGEST_QUESTION = 40
"""Maximum number of tokens of a question in training; longer questions usually name their subject within
these tokens."""
_NEVER = -1e4
_WHAT = "training the encoder to search"


@dataclass(frozen=True, slots=True)
class Sought:
    """A text with the questions that it answers. Texts with the same ``kin`` count as equal."""

    text: str
    questions: tuple[str, ...]
    kin: int


Chunk = Sequence[Sought]
"""Texts of one source, which are hard negatives for each other's questions."""


def train_retriever(
    job: TrainingJob, section: EncoderSection, length: int, chunks: Sequence[Chunk]
) -> dict[str, Any]:
    """Trains an encoder; the batch size in ``job.schedule`` is a number of chunks.

    :param section: the encoder's pooling. :param length: maximum number of tokens of a text.
    :return: the figures of ``run_training``, and ``peak_rss``, the peak memory in bytes.
    :raises ExportError: the checkpoint can't be loaded, the loss is no longer finite, or the time was too
        short.
    """
    chunked = [[asdict(text) for text in chunk] for chunk in chunks]
    data = {"pooling": section.pooling, "length": length, "chunks": chunked}
    return job.run("retriever_training", _WHAT, data)


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``train_retriever``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    # On CPUs training with eager attention is twice as fast as with fused kernels.
    model = transformers.AutoModel.from_pretrained(
        job.source, dtype=torch.float32, attn_implementation="eager"
    ).to(job.device)
    freeze_lowest(model)
    retriever = RetrieverModel(model, task["pooling"])

    def tokens(text: str, most: int) -> list[int]:
        return list(tokenizer(text, truncation=True, max_length=most).input_ids)

    chunks = [
        [
            TokenText(
                tokens(text["text"], task["length"]),
                [tokens(question, _LONGEST_QUESTION) for question in text["questions"]],
                text["kin"],
            )
            for text in chunk
        ]
        for chunk in task["chunks"]
    ]
    training = Training(
        model,
        [([weight for weight in model.parameters() if weight.requires_grad], job.schedule.rate)],
        [max(len(text.tokens) for text in chunk) for chunk in chunks],
        lambda batch: retriever.loss([text for number in batch for text in chunks[number]]),
        job.aside,
        _WHAT,
        job.state,
    )
    figures = run_training(training, job.schedule, reporter)
    save_beside(model, job.source, job.out)
    return {**figures, "peak_rss": peak_rss_bytes()}


@dataclass(frozen=True, slots=True)
class TokenText:
    tokens: list[int]
    questions: list[list[int]]
    kin: int


class RetrieverModel:
    def __init__(self, model: Any, pooling: str) -> None:
        self._model, self._pooling = model, pooling
        self._padding = model.config.pad_token_id or 0
        self._in_bfloat16 = has_bfloat16(model.device)

    def vectors(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """Normalized vectors [rows, dimension], since a search compares cosines."""
        import torch

        tokens, mask = padded(rows, self._padding, self._model.device)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return pooled(hidden.float(), mask, self._pooling, normalize=True)

    def loss(self, texts: Sequence[TokenText]) -> torch.Tensor:
        """Cross-entropy of each question's own text among all texts of the batch, leaving out other texts
        with the same ``kin``."""
        import torch

        asked = [(number, question) for number, text in enumerate(texts) for question in text.questions]
        own = torch.tensor([number for number, _ in asked], device=self._model.device)
        scores = (
            self.vectors([question for _, question in asked])
            @ self.vectors([text.tokens for text in texts]).T
        )
        kin = torch.tensor([text.kin for text in texts], device=own.device)
        like_own = kin[own].unsqueeze(1) == kin.unsqueeze(0)
        like_own[torch.arange(len(own), device=own.device), own] = False
        return torch.nn.functional.cross_entropy((scores / _TEMPERATURE).masked_fill(like_own, _NEVER), own)


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
