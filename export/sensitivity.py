"""How much each matrix's rounding costs: the divergence it adds, estimated for every format in one pass.

Second order in the error (the Fisher information is the Hessian of the divergence at the float model): with
``g`` the gradient of ``log p(y)`` in a matrix's output, ``y`` drawn from the model itself, and ``d`` its
error there, the matrix adds ``E[(g . d)^2] / 2`` nats a token (Kirkpatrick et al. 2017, section 2.1; for
quantization Kim et al. 2023, arXiv 2306.07629). One backward pass through activations alone; the whole
model has to fit. Errors at several positions are taken as independent, so what attention adds up is
underestimated: values most, five times in a tiny model's last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from edgeslm_export.formats import Format
from edgeslm_export.gptq import round_to_nearest
from edgeslm_export.layers import LayeredModel
from edgeslm_export.recipe import EMBEDDING

_SEQUENCES = 1
"""At a time: a backward pass keeps the activations of all layers, and logits several times over."""
_SEED = 0

Losses = dict[str, dict[Format, float]]


def fisher(
    model: LayeredModel, ids: torch.Tensor, formats: Sequence[Format], on_step: Callable[[int, int], None]
) -> Losses:
    """Estimated divergence in nats a token, by matrix name and format, the embedding included.

    :param ids: [sequences, tokens]. Loads all layers; they stay loaded.
    """
    for number in range(len(model.layers)):
        model.load_layer(number)
    embedding = model.model.model.embed_tokens
    meters = {
        name: _Meter(module.weight, formats)
        for name, module in {**model.matrices(), EMBEDDING: embedding}.items()
    }
    handles = [module.register_forward_hook(meters[name].watch) for name, module in model.matrices().items()]
    scale = float(getattr(embedding, "scalar_embed_scale", 1.0))  # Gemma's lookup multiplies what it finds
    generator = torch.Generator().manual_seed(_SEED)
    batches = ids.split(_SEQUENCES)
    try:
        for step, batch in enumerate(batches):
            on_step(step, len(batches))
            with torch.enable_grad():
                embedded = embedding(batch).detach().requires_grad_(True)
                embedded.register_hook(meters[EMBEDDING].embedded(batch, scale))
                logits = model.model(inputs_embeds=embedded, use_cache=False).logits.flatten(0, 1)
                drawn = _draw(logits.detach(), generator)
                torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
            del logits, embedded
    finally:
        for handle in handles:
            handle.remove()
    return {name: meter.losses(ids.numel()) for name, meter in meters.items()}


def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A token for each row [rows, vocabulary], by its probability; several times as fast as multinomial."""
    below = logits.softmax(dim=1).cumsum_(dim=1)
    at = torch.rand(len(logits), 1, generator=generator) * below[:, -1:]
    return torch.searchsorted(below, at)[:, 0].clamp_(max=logits.shape[1] - 1)


class _Meter:
    """Sums ``(g . d)^2 / 2`` for one matrix and each format."""

    def __init__(self, weight: torch.Tensor, formats: Sequence[Format]) -> None:
        self._sums = dict.fromkeys(formats, 0.0)
        # Half precision is enough for an error, and two of them take no more than the weights.
        self._errors = {
            form: (torch.from_numpy(round_to_nearest(weight, form).weights()) - weight).bfloat16()
            for form in formats
        }

    def watch(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        read = inputs[0].detach().flatten(0, -2)

        def meet(gradient: torch.Tensor) -> None:
            found = gradient.flatten(0, -2)
            for form, error in self._errors.items():
                self._sums[form] += float((found * (read @ error.float().T)).sum(dim=1).square().sum()) / 2

        output.register_hook(meet)

    def embedded(self, ids: torch.Tensor, scale: float) -> Callable[[torch.Tensor], None]:
        def meet(gradient: torch.Tensor) -> None:
            for form, error in self._errors.items():
                self._sums[form] += (
                    float((gradient * error[ids].float() * scale).sum(dim=2).square().sum()) / 2
                )

        return meet

    def losses(self, tokens: int) -> dict[Format, float]:
        return {form: total / tokens for form, total in self._sums.items()}
