"""Sensitivity: estimates the divergence that quantizing each matrix adds, from one pass of gradients.

The estimate is of second order in the error: the Fisher information is the Hessian of the divergence at the
float model. Let ``g`` be the gradient of ``log p(y)`` at a matrix's output, with ``y`` drawn from the model,
and ``d`` the output's error. The matrix then adds ``E[(g . d)^2] / 2`` nats a token (Kirkpatrick et al.,
2017, section 2.1; for quantization Kim et al., 2023, arXiv 2306.07629). Errors at different positions are
assumed to be independent.

Inside the layers ``d`` is known only after calibration, when the gradients are no longer in memory. So only
the norm of ``g`` at each token is kept, and ``(g . d)^2`` is approximated by ``|g|^2 |d|^2 / rows``, its mean
if the direction of ``d`` is random. In SmolLM2-135M this approximation is within 10 % of the exact sum for
most matrices, 0.7 times the sum for queries, and up to 1.9 times the sum for keys. For embedding and head,
whose gradients have a preferred direction, the sum is exact. The backward pass computes gradients of
activations only, one layer at a time.

The losses of rounding are estimated before calibration, so that only the formats that a placement may choose
are calibrated. Errors of rounding are independent, so ``E[|g|^2 x^2]`` of each column is enough for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.gptq import round_to_nearest, squared_errors
from edgeslm_export.quantize.packing import Quantized
from edgeslm_export.quantize.recipe import EMBEDDING, HEAD
from edgeslm_export.sources.corpus import BATCH
from edgeslm_export.sources.layer_reader import LayeredModel

_SEQUENCES = 1
"""Number of sequences per backward pass, which keeps the activations of a layer, or several copies of the
logits."""
_ROWS = 16_384
"""Number of rows of embedding or head whose errors are in memory at a time."""
_SEED = 0

Losses = dict[str, dict[Format, float]]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """``losses`` are in nats a token, by matrix and format: those of embedding and head, and those of
    rounding for the layers' matrices. ``gradients`` has, for the name of each of the layers' matrices, the
    squared norm of the gradient at the matrix's output, [sequences, tokens]."""

    losses: Losses
    gradients: dict[str, torch.Tensor]


def measure_sensitivity(
    model: LayeredModel, ids: torch.Tensor, formats: Sequence[Format], on_progress: OnProgress
) -> Sensitivity:
    """Measures on ``ids`` [sequences, tokens].

    Each layer is loaded twice: for the forward pass, which keeps the input of every layer, and for the
    backward pass, which computes the layer again. So memory holds one layer, the embedding and the head.
    """
    embedding, head = model.model.model.embed_tokens, model.model.lm_head
    heads = _quantized(head.weight, formats)
    meters = {HEAD: _Meter(head.weight, heads)}
    meters[EMBEDDING] = _Meter(
        embedding.weight, heads if model.tied else _quantized(embedding.weight, formats)
    )
    layers, what = len(model.layers), "measuring sensitivity"
    total = 2 * layers + len(ids)
    with torch.no_grad():
        inputs, calls = [model.embed(ids)], model.calls(ids[:BATCH])
        for number in range(layers):
            on_progress(number, total, what)
            with model.borrowed(number):
                inputs.append(model.run(number, inputs[-1], calls))
    gradient = _head_gradient(
        model, inputs.pop(), meters[HEAD], lambda done: on_progress(layers + done, total, what)
    )
    notes: dict[str, _Notes] = {}
    losses: Losses = {}
    for number in reversed(range(layers)):
        on_progress(total - 1 - number, total, what)
        with model.borrowed(number):
            gradient, found = _layer_gradient(model, number, inputs.pop(), gradient, calls)
            for name, note in found.items():
                losses[name] = note.rounding_losses(model.model.get_submodule(name).weight, formats)
        notes |= found
    scale = float(getattr(embedding, "scalar_embed_scale", 1.0))  # Gemma scales its embeddings
    for row, sequence in enumerate(ids.split(_SEQUENCES)):
        with torch.enable_grad():
            embedded = embedding(sequence).detach().requires_grad_(True)
            model.first_hidden(embedded).backward(gradient.split(_SEQUENCES)[row])
        meters[EMBEDDING].meet_embedded(sequence, scale, embedded.grad)
    losses |= {name: meter.losses(ids.numel()) for name, meter in meters.items()}
    gradients = {name: torch.cat(notes[name].lengths) for name in model.matrices() if name != HEAD}
    return Sensitivity(losses, gradients)


def _head_gradient(
    model: LayeredModel, hidden: torch.Tensor, meter: _Meter, on_progress: Callable[[int], None]
) -> torch.Tensor:
    """Gradient of ``log p(y)`` at the last layer's output, with a token ``y`` drawn at each position."""
    generator = torch.Generator("cpu").manual_seed(_SEED)
    gradients = []
    handle = model.model.lm_head.register_forward_hook(meter.watch)
    try:
        for step, part in enumerate(hidden.split(_SEQUENCES)):
            on_progress(step)
            part = part.detach().requires_grad_(True)
            with torch.enable_grad():
                logits = model.logits(part).flatten(0, 1)
                drawn = _draw(logits.detach(), generator)
                torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
            gradients.append(part.grad)
    finally:
        handle.remove()
    return torch.cat(gradients)


def _layer_gradient(
    model: LayeredModel,
    number: int,
    hidden: torch.Tensor,
    gradient: torch.Tensor,
    calls: list[dict[str, Any]],
) -> tuple[torch.Tensor, dict[str, _Notes]]:
    """The gradient at a borrowed layer's input ``hidden``, from that at its output; and notes on each of its
    matrices."""
    prefix = f"model.layers.{number}."
    notes: dict[str, _Notes] = {}
    handles = []
    for name, module in model.matrices().items():
        if name.startswith(prefix):
            notes[name] = _Notes(module.weight.shape[1])
            handles.append(module.register_forward_hook(notes[name].watch))
    found = []
    try:
        for part, behind in zip(hidden.split(_SEQUENCES), gradient.split(_SEQUENCES), strict=True):
            part = part.detach().requires_grad_(True)
            with torch.enable_grad():
                model.run(number, part, calls).backward(behind)
            found.append(part.grad)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found), notes


class ErrorMeter:
    """Measures the divergence that errors of one matrix add.

    :param inputs: [tokens, columns]. :param gradient: [tokens], the matrix's squared gradient norms from
        ``Sensitivity.gradients``. :param errors: the number of errors that will be measured.
    """

    def __init__(self, inputs: torch.Tensor, gradient: torch.Tensor, rows: int, errors: int) -> None:
        self._inputs, self._gradient = inputs, gradient
        tokens, columns = inputs.shape
        # With the weighted sum of x x^T, an error costs a product of columns x columns instead of tokens x
        # columns for each row.
        self._products: torch.Tensor | None = None
        if columns * (tokens + errors * rows) < errors * rows * tokens:
            self._products = inputs.T @ (inputs * gradient[:, None])

    def divergence(self, error: torch.Tensor) -> float:
        """In nats a token. :param error: [rows, columns], quantized minus float weights."""
        if self._products is None:
            lengths = (self._inputs @ error.T).square_().sum(dim=1)
            total = lengths @ self._gradient
        else:
            total = (error @ self._products).mul_(error).sum()
        return float(total) / float(2 * error.shape[0] * len(self._inputs))


def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Samples a token from each row of ``logits`` [rows, vocabulary], several times as fast as
    ``torch.multinomial``."""
    below = logits.softmax(dim=1).cumsum_(dim=1)
    drawn = torch.rand(len(logits), 1, generator=generator, device=generator.device)  # equal on each device
    at = drawn.to(below.device) * below[:, -1:]
    return torch.searchsorted(below, at)[:, 0].clamp_(max=logits.shape[1] - 1)


def _quantized(weight: torch.Tensor, formats: Sequence[Format]) -> dict[Format, Quantized]:
    return {form: round_to_nearest(weight, form) for form in formats}


class _Notes:
    """What the backward pass finds about a matrix with ``columns`` inputs. ``lengths`` has the squared norm
    of the gradient at the matrix's output, [sequences, tokens], for each backward pass."""

    def __init__(self, columns: int) -> None:
        self.lengths: list[torch.Tensor] = []
        self._weights = torch.zeros(columns)  # the sum over tokens of |g|^2 x^2

    def watch(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """A forward hook; notes are taken in the backward pass."""
        read = inputs[0].detach()

        def note(gradient: torch.Tensor) -> None:
            lengths = gradient.square().sum(dim=-1)
            self.lengths.append(lengths)
            self._weights += lengths.flatten() @ read.flatten(0, -2).square()

        output.register_hook(note)

    def rounding_losses(self, weight: torch.Tensor, formats: Sequence[Format]) -> dict[Format, float]:
        """The loss of rounding the matrix to each format, in nats a token."""
        tokens = sum(lengths.numel() for lengths in self.lengths)
        return {
            form: float(squared_errors(weight.detach(), form) @ self._weights)
            / (2 * weight.shape[0] * tokens)
            for form in formats
        }


class _Meter:
    """Sums ``(g . d)^2 / 2`` (see the module) over the tokens, for one matrix and each format. The errors of
    ``_ROWS`` rows are in memory at a time, since the errors of a large vocabulary take gigabytes."""

    def __init__(self, weight: torch.Tensor, quantized: dict[Format, Quantized]) -> None:
        self._sums = dict.fromkeys(quantized, 0.0)
        self._weight, self._quantized = weight, quantized

    def _error(self, form: Format, rows: Any) -> torch.Tensor:
        made = self._quantized[form]
        at = rows.cpu() if isinstance(rows, torch.Tensor) else rows
        part = Quantized(made.codes[at], made.scales[at], form)
        return torch.from_numpy(part.weights()).to(self._weight.device) - self._weight[rows]

    def watch(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        read = inputs[0].detach().flatten(0, -2)

        def meet(gradient: torch.Tensor) -> None:
            found = gradient.flatten(0, -2)
            for form in self._sums:
                total = read.new_zeros(len(read))  # hooks of a GPU run in a thread without a default device
                for start in range(0, found.shape[1], _ROWS):
                    rows = slice(start, start + _ROWS)
                    total += (found[:, rows] * (read @ self._error(form, rows).T)).sum(dim=1)
                self._sums[form] += float(total.square().sum()) / 2

        output.register_hook(meet)

    def meet_embedded(self, ids: torch.Tensor, scale: float, gradient: torch.Tensor) -> None:
        for form in self._sums:
            error = self._error(form, ids.flatten()).view(*ids.shape, -1)
            self._sums[form] += float((gradient * error * scale).sum(dim=2).square().sum()) / 2

    def losses(self, tokens: int) -> dict[Format, float]:
        return {form: total / tokens for form, total in self._sums.items()}
