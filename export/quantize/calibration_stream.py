"""Calibration activations: passes calibration tokens through a model layer by layer and collects the inputs
of each matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm_export.quantize.recipe import VALUES
from edgeslm_export.sources.corpus import BATCH

MEASURED_EVERY = 7
"""Sensitivity is measured on every seventh sequence, since a mean loss needs fewer tokens than GPTQ's
Hessian."""
_BLOCK = 1024
"""Number of columns in a block of the sum of products."""
_SEEN_EVERY = 16
"""Every sixteenth token is kept as a sample of a matrix's inputs."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of a stage's inputs ``x`` over the calibration tokens. A stage consists of the matrices of a
    layer that read the same input.

    ``products`` is the sum of ``x x^T`` [columns, columns], ``largest`` the largest magnitude of each column,
    ``tokens`` a sample [tokens, columns] that has the first token of each sequence. ``inputs`` [tokens,
    columns] are the inputs in the sequences on which sensitivity is measured; None unless ``moments`` was
    called with ``keep``.
    """

    products: Any
    largest: Any
    tokens: Any
    inputs: Any | None


@dataclass(frozen=True, slots=True)
class _Block:
    """Attention or MLP of a layer. Its output is that of ``matrix``, alone or the first of a tuple with
    ``others`` more values, which layers ignore."""

    module: Any
    matrix: Any
    others: int
    is_tuple: bool

    @contextlib.contextmanager
    def shortened(self, inputs: Any) -> Iterator[None]:
        """Makes the block compute only its last matrix, from known inputs."""

        def forward(*_: Any, **__: Any) -> Any:
            output = self.matrix(inputs)
            return (output, *[None] * self.others) if self.is_tuple else output

        self.module.forward = forward
        try:
            yield
        finally:
            del self.module.forward


class CalibrationStream:
    """Hidden states of the calibration tokens, advanced layer by layer.

    The inputs of a layer's matrices are computed stage by stage, since those of a later stage depend on the
    matrices of earlier ones, which are quantized by then. Attention and MLP end with a matrix whose inputs
    are kept, so that later stages needn't compute them again.

    :param ids: [sequences, tokens]. :param hidden: the inputs of the layer to go on with; by default the
        embeddings of the tokens.
    """

    def __init__(self, model: Any, ids: Any, hidden: Any | None = None) -> None:
        self.model = model
        self.hidden = model.embed(ids) if hidden is None else hidden
        self._calls = model.calls(ids[:BATCH])
        self._ends: dict[str, _Block] = {}
        self._known: dict[str, list[Any]] = {}

    def advance(self, number: int) -> None:
        for at, batch in enumerate(self.hidden.split(BATCH)):  # views
            batch.copy_(self._run(number, at, batch))
            for inputs in self._known.values():
                inputs[at] = None
        self._known.clear()

    def _run(self, number: int, at: int, batch: Any) -> Any:
        """The layer's output for a batch; blocks whose last matrix has known inputs compute only that
        matrix."""
        with contextlib.ExitStack() as stack:
            for name, inputs in self._known.items():
                stack.enter_context(self._ends[name].shortened(inputs[at]))
            return self.model.run(number, batch, self._calls)

    def stages(self, number: int, matrices: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The layer's matrices in order of use, grouped by input: matrices of a stage read the same input."""
        order: list[tuple[str, int]] = []
        keep: list[Any] = []  # a freed input's address could be used again
        last: dict[int, str] = {}  # the matrix that computed what is at an address
        self._ends, self._known = {}, {}

        def note(name: str) -> Any:
            def hook(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
                keep.extend((inputs[0], output))
                order.append((name, inputs[0].data_ptr()))
                last[output.data_ptr()] = name

            return hook

        def end(block: Any, _: Any, output: Any) -> None:
            first, *rest = output if isinstance(output, tuple) else (output,)
            name = last.get(first.data_ptr())
            if name is not None:
                self._ends[name] = _Block(block, matrices[name], len(rest), isinstance(output, tuple))

        blocks = {name.rpartition(".")[0] for name in matrices}
        handles = [part.register_forward_hook(note(name)) for name, part in matrices.items()]
        handles += [self.model.model.get_submodule(name).register_forward_hook(end) for name in blocks]
        with _hooked(handles):
            self.model.run(number, self.hidden[:1], self._calls)
        stages: dict[int, dict[str, Any]] = {}
        for name, address in order:
            stages.setdefault(address, {})[name] = matrices[name]
        return list(stages.values())

    def inputs(self, number: int, name: str, matrix: Any) -> Iterator[Any]:
        """The inputs of a linear layer: [sequences, tokens, columns], in batches."""
        seen: list[Any] = []

        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            seen.append(inputs[0])
            raise _Seen

        known = []
        with _hooked([matrix.register_forward_pre_hook(hook)]):
            for at, batch in enumerate(self.hidden.split(BATCH)):
                with contextlib.suppress(_Seen):
                    self._run(number, at, batch)
                if name in self._ends:
                    known.append(seen[0])
                yield seen.pop()
        if known:
            self._known[name] = known

    def moments(self, number: int, stage: Mapping[str, Any], *, keep: bool) -> Moments:
        """Input statistics of a stage. :param keep: whether to keep ``inputs`` too.

        For value projections the first token of a sequence weighs as much as all others together, because it
        is an attention sink (Xiao et al., 2023, arXiv 2309.17453): in most layers of SmolLM2-135M, 95 % of
        the squared gradient of the value projection's output belongs to the first token. With equal weights
        for all tokens, GPTQ would increase the error of the first token's value beyond that of plain
        rounding.
        """
        import torch

        name, first = next(iter(stage.items()))
        columns = first.weight.shape[1]
        total, largest, at = torch.zeros(columns, columns), torch.zeros(columns), 0
        tokens: list[Any] = []
        kept: list[Any] = []
        for batch in self.inputs(number, name, first):
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
            _add_products(total, flat)
        return Moments(_mirrored(total), largest, torch.cat(tokens), torch.cat(kept) if keep else None)


def _add_products(total: Any, inputs: Any) -> None:
    """Adds ``inputs^T inputs`` to the blocks of ``total`` on and above the diagonal. The product is
    symmetric, and torch lacks BLAS's routine for such products.

    :param inputs: [tokens, columns].
    """
    columns = inputs.shape[1]
    for start in range(0, columns, _BLOCK):
        rows = slice(start, min(start + _BLOCK, columns))
        total[rows, start:].addmm_(inputs[:, rows].T, inputs[:, start:])


def _mirrored(total: Any) -> Any:
    """``total`` with what is below the diagonal copied from above it, in place."""
    columns = total.shape[1]
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        total[end:, start:end] = total[start:end, end:].T
    return total


class _Seen(Exception):
    """Ends a layer's forward pass once its input was recorded."""


@contextlib.contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
