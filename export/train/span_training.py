"""Span training: trains an encoder to extract fields as spans or classes, in PyTorch.

A layer on the text's vector classifies each field (missing, a span of the message, or one of its learned
values). A layer on each token's vector predicts where a field starts and ends and which tokens it covers. If
a value occurs several times, any of its spans is right, and the loss is computed from the spans' summed
probability (Clark and Gardner 2018, section 3).

Runs in a child process (``python -m edgeslm_export.train.span_training``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.encoder_finetune import LAYER, LAYER_RATE, UNIT_SCALE, WHAT, pooled, save_beside
from edgeslm_export.train.field_spec import Aim
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import TEMPERATURES, Training, padded, run_training

from edgeslm.bundle.manifest import EncoderSection
from edgeslm.bundle.spans import bare_offsets
from edgeslm.errors import ExportError
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

ARRAYS = ("weight", "bias", "place_weight", "place_bias")
_NOWHERE = -1e9


def train_spans(
    job: TrainingJob,
    section: EncoderSection,
    length: int,
    texts: Sequence[str],
    options: Sequence[int],
    aims: Sequence[Sequence[Aim]],
) -> dict[str, Any]:
    """Trains an encoder and its layers, which are written to ``LAYER`` in ``job.out``.

    :param section: the encoder's pooling. :param length: maximum number of tokens of a text.
    :param options: number of classes of each field. :param aims: training targets, [texts][fields].
    :return: the figures of ``run_training``, and ``unreadable`` [fields], the number of texts whose span
        couldn't be trained on, since it starts or ends within a token or was cut off.
    :raises ExportError: the checkpoint can't be loaded, its tokenizer gives no offsets, or the loss is no
        longer finite.
    """
    data = {
        "pooling": section.pooling,
        "normalize": section.normalize,
        "length": length,
        "texts": list(texts),
        "options": list(options),
        "aims": [[[aim.option, list(aim.places)] for aim in row] for row in aims],
    }
    return job.run("span_training", WHAT, data)


def load_arrays(taught: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays ``ARRAYS`` of a trained checkpoint, as in a head's weights file."""
    import numpy as np

    with np.load(taught / LAYER, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ARRAYS}


# --- in the child ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpanRow:
    """The ``tokens`` of a text. ``stands`` is False for tokens that cover no characters of the text, such as
    special tokens and white space, which can't begin or end a span. ``options`` [fields] are class indices,
    -1 for fields that aren't trained on. ``places`` maps a field's index to the first and last token of each
    of its spans."""

    tokens: Sequence[int]
    stands: Sequence[bool]
    options: Sequence[int]
    places: dict[int, list[tuple[int, int]]]


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``train_spans``."""
    import torch
    import transformers

    job = open_job(task, reporter)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    if not tokenizer.is_fast:
        raise ExportError("The encoder's tokenizer doesn't tell where its tokens stand; take another.")
    model = transformers.AutoModel.from_pretrained(job.source, dtype=torch.float32).to(job.device)
    head = SpanHead(model, task["options"], task["pooling"], normalize=task["normalize"])
    rows = [
        make_span_row(tokenizer, text, task["length"], aims)
        for text, aims in zip(task["texts"], task["aims"], strict=True)
    ]
    training = Training(
        model,
        [(list(model.parameters()), job.schedule.rate), (head.layers, LAYER_RATE)],
        [len(row.tokens) for row in rows],
        lambda batch: head.losses([rows[number] for number in batch], (1.0,)).mean(),
        job.aside,
        WHAT,
        job.state,
        lambda batch: head.losses([rows[number] for number in batch], TEMPERATURES),
    )
    figures = run_training(training, job.schedule, reporter)
    head.save(job.source, job.out)
    pairs = list(zip(rows, task["aims"], strict=True))
    unreadable = [
        sum(bool(aims[field][1]) and field not in row.places for row, aims in pairs)
        for field in range(len(task["options"]))
    ]
    return {**figures, "unreadable": unreadable, "peak_rss": peak_rss_bytes()}


def make_span_row(tokenizer: Any, text: str, length: int, aims: Sequence[Any]) -> SpanRow:
    encoded = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
    offsets = list(bare_offsets(text, encoded.offset_mapping))
    # Several tokens may have the same offsets, such as those of an emoji.
    first = {start: token for token, (start, end) in reversed(list(enumerate(offsets))) if start < end}
    last = {end: token for token, (start, end) in enumerate(offsets) if start < end}
    options, places = [], {}
    for field, (option, of_field) in enumerate(aims):
        # Spans that start or end within a token, or that were cut off, can't be trained on.
        found = [(first[start], last[end]) for start, end in of_field if start in first and end in last]
        if found:
            places[field] = found
        options.append(-1 if option is None or (of_field and not found) else option)
    return SpanRow(encoded.input_ids, [start < end for start, end in offsets], options, places)


class SpanHead:
    """The encoder with a layer for classes, which is applied to the pooled vector times ``_scale``, and a
    layer for spans."""

    def __init__(self, model: Any, options: Sequence[int], pooling: str, *, normalize: bool) -> None:
        import torch

        self._model, self._pooling, self._normalize = model, pooling, normalize
        self._scale = UNIT_SCALE if normalize else 1.0
        self._padding = model.config.pad_token_id or 0  # RoBERTa derives positions from it
        size, fields = model.config.hidden_size, len(options)
        self._options, self._places = (
            torch.nn.Linear(size, outputs).to(model.device) for outputs in (sum(options), 3 * fields)
        )
        self._sizes = list(options)

    @property
    def layers(self) -> list[torch.nn.Parameter]:
        return [*self._options.parameters(), *self._places.parameters()]

    def losses(self, rows: Sequence[SpanRow], temperatures: Sequence[float]) -> torch.Tensor:
        """Losses [temperatures, rows]: cross-entropy of class and span, summed over the fields."""
        import torch

        tokens, mask = padded([row.tokens for row in rows], self._padding, self._model.device)
        hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
        vectors = pooled(hidden, mask, self._pooling, normalize=self._normalize)
        wanted = torch.tensor([row.options for row in rows], device=tokens.device)
        options, places = self._options(vectors * self._scale), self._places(hidden).unflatten(2, (-1, 3))
        pairs = [(number, field) for number, row in enumerate(rows) for field in row.places]
        totals = []
        for temperature in temperatures:
            total = 0 * vectors.sum(1)  # a batch without targets still needs a gradient
            for field, logits in enumerate((options / temperature).split(self._sizes, 1)):
                if bool((wanted[:, field] >= 0).any()) and logits.shape[1] > 1:
                    total = total + torch.nn.functional.cross_entropy(
                        logits, wanted[:, field], ignore_index=-1, reduction="none"
                    )
            if pairs:
                of_rows = torch.tensor([number for number, _ in pairs], device=tokens.device)
                total = total.index_add(0, of_rows, _place_losses(places / temperature, rows, pairs))
            totals.append(total)
        return torch.stack(totals)

    def save(self, source: Path, out: Path) -> None:
        import numpy as np

        save_beside(self._model, source, out)
        weight, bias, place_weight, place_bias = (value.detach().cpu().numpy() for value in self.layers)
        arrays: dict[str, Any] = {
            "weight": weight * self._scale,
            "bias": bias,
            "place_weight": place_weight.reshape(len(self._sizes), 3, -1),
            "place_bias": place_bias.reshape(len(self._sizes), 3),
        }
        np.savez(out / LAYER, **{name: values.astype(np.float32) for name, values in arrays.items()})


def _place_losses(
    places: torch.Tensor, rows: Sequence[SpanRow], pairs: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """The span loss of each pair, [pairs]. :param places: logits of each token being a span's first or last
    token or within it, [rows, longest, fields, 3]. :param pairs: indices (row, field) where there is a
    span."""
    import torch

    longest = places.shape[1]
    stands = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        stands[number, : len(row.stands)] = torch.tensor(row.stands)
    most = max(len(rows[number].places[field]) for number, field in pairs)
    ends = torch.zeros(len(pairs), most, 2, dtype=torch.long)
    lack = torch.ones(len(pairs), most, dtype=torch.bool)
    inside = torch.zeros(len(pairs), longest)
    for at, (number, field) in enumerate(pairs):
        standing = rows[number].places[field]
        ends[at, : len(standing)], lack[at, : len(standing)] = torch.tensor(standing), False
        for begin, end in standing:
            inside[at, begin : end + 1] = 1
    # Built on the CPU, where single values cost least.
    stands, ends, lack, inside = (part.to(places.device) for part in (stands, ends, lack, inside))
    of_rows, of_fields = torch.tensor(pairs, device=places.device).T
    scores = places[of_rows, :, of_fields]  # [pairs, longest, 3]
    possible = stands[of_rows]
    shares = torch.log_softmax(scores[:, :, :2].masked_fill(~possible[:, :, None], _NOWHERE), 1)
    found = shares[:, :, 0].gather(1, ends[:, :, 0]) + shares[:, :, 1].gather(1, ends[:, :, 1])
    covered = torch.nn.functional.binary_cross_entropy_with_logits(
        scores[:, :, 2], inside, possible.to(scores.dtype), reduction="none"
    )
    return covered.sum(1) - torch.logsumexp(found.masked_fill(lack, _NOWHERE), 1)


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
