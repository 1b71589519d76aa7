"""The calibration tokens on their way through a model, a layer at a time: what each matrix reads.

torch, and ``layer_reader``; knows no formats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm_export.quantize.recipe import VALUES
from edgeslm_export.sources.corpus import BATCH

MEASURED_EVERY = 4
"""One sequence in so many is measured on: a mean needs fewer tokens than a Hessian."""
_SEEN_EVERY = 16
"""One token in so many is kept of what all matrices read."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What some matrices read of the calibration tokens.

    ``products`` is the sum of ``x x^T`` [columns, columns], ``largest`` the largest magnitude of each column,
    ``tokens`` some tokens [tokens, columns], the first of each sequence among them. ``inputs`` [tokens,
    columns] are those of the sequences that are measured on, if asked.
    """

    products: Any
    largest: Any
    tokens: Any
    inputs: Any | None


class CalibrationStream:
    """The calibration tokens on their way through the layers."""

    def __init__(self, model: Any, ids: Any) -> None:
        self.model = model
        self.hidden = model.embed(ids)
        self._calls = model.calls(ids[:BATCH])

    def advance(self, number: int) -> None:
        self.hidden = self.model.run(number, self.hidden, self._calls)

    def stages(self, number: int, matrices: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The layer's matrices in the order they are used, those that read the same input together."""
        order: list[tuple[str, int]] = []
        keep = []  # or a freed input's address is given to another

        def note(name: str) -> Any:
            def hook(_: Any, inputs: tuple[Any, ...]) -> None:
                keep.append(inputs[0])
                order.append((name, inputs[0].data_ptr()))

            return hook

        with _hooked([part.register_forward_pre_hook(note(name)) for name, part in matrices.items()]):
            self.model.run(number, self.hidden[:1], self._calls)
        stages: dict[int, dict[str, Any]] = {}
        for name, address in order:
            stages.setdefault(address, {})[name] = matrices[name]
        return list(stages.values())

    def inputs(self, number: int, matrix: Any) -> Iterator[Any]:
        """What ``matrix``, a linear layer of this layer, reads: [sequences, tokens, columns], in batches."""
        seen: list[Any] = []

        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            seen.append(inputs[0])
            raise _Seen

        with _hooked([matrix.register_forward_pre_hook(hook)]):
            for batch in self.hidden.split(BATCH):
                with contextlib.suppress(_Seen):
                    self.model.run(number, batch, self._calls)
                yield seen.pop()

    def moments(self, number: int, stage: Mapping[str, Any], *, keep: bool) -> Moments:
        """Of the matrices of a stage. :param keep: whether inputs are measured on.

        Where values are made, the first token of a sequence counts as much as all others: so much attention
        rests on it (attention sinks: Xiao et al. 2023, arXiv 2309.17453) that 19 parts in 20 of the squared
        gradient of most layers' values are there in SmolLM2-135M. Counted once, its value costs more after
        GPTQ than after rounding.
        """
        import torch

        first, *_ = stage.values()
        columns = first.weight.shape[1]
        total, largest, at = torch.zeros(columns, columns), torch.zeros(columns), 0
        tokens: list[Any] = []
        kept: list[Any] = []
        for batch in self.inputs(number, first):
            if keep:
                kept.extend(
                    batch[row].clone() for row in range(len(batch)) if (at + row) % MEASURED_EVERY == 0
                )
            at += len(batch)
            largest = torch.maximum(largest, batch.abs().amax(dim=(0, 1)))
            tokens.append(batch[:, ::_SEEN_EVERY].reshape(-1, columns).clone())
            if any(name.endswith(VALUES) for name in stage):
                batch = batch.clone()
                batch[:, 0] *= batch.shape[1] ** 0.5
            flat = batch.reshape(-1, columns)
            total.addmm_(flat.T, flat)
        return Moments(total, largest, torch.cat(tokens), torch.cat(kept) if keep else None)


class _Seen(Exception):
    """What was wanted of a layer was seen; the rest of it needn't run."""


@contextlib.contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
