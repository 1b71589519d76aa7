"""Codes and scales for one matrix, by rounding or by GPTQ and descent; torch, no models.

GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other and each one's error is
spread over those that are still float, so that the product with the calibration inputs changes least. Columns
go from the largest diagonal entry of the Hessian to the smallest, with the groups' scales fixed before (the
order is gone afterwards, so nothing has to be permuted when the model runs). A scale is the one of a few
candidates that loses least, weighted by the Hessian's diagonal.

What GPTQ finds is then descended from: the scales that are best for the codes (least squares, a small system
for each row), then each code once more with the others held (coordinate descent as in QuantEase, Behdin et
al. 2023, arXiv 2309.01885). That takes away another seven percent of the error in about as much time as GPTQ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeslm_export.quantize.formats import STEPS, Format
from edgeslm_export.quantize.packing import Quantized

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch

DAMPING = 0.01
"""Share of the mean diagonal that is added to the Hessian, as in the paper."""
_CANDIDATES = 8
_SMALLEST = 0.75
"""Scales from this share of the one that just covers the group."""
_BLOCK = 128
_BLOCK_WEIGHTS = 262_144
"""What a cache holds; and a vocabulary's matrix several times over would not fit memory."""
_BLOCK_SYSTEMS = 1 << 24
"""Of the refit's systems, which lose more by reading the Hessian for each block than by leaving the cache."""
_MOST_DAMPED = 8
_RIDGE = 1e-4
"""How strongly refitted scales hold to those before, as a share of the system's mean diagonal."""
_LEAST_SHARE = 0.05
"""Of the median: magnitudes of channels count as no smaller. What calibration hardly saw would be spread
without end, and a token that does use it would have nothing left for the others."""
_MOST_NOISE = 0.006
"""Share of the products of a usual token, as energy, that rounding by one scale for all may add. In
SmolLM2-135M all that reads norms and attention has less, most that reads gated values more
(``benchmarks/LOG.md``)."""
_TINY = 1e-7
"""Float16's smallest subnormal is 6e-8: a scale below is none."""


def round_to_nearest(weight: torch.Tensor, form: Format) -> Quantized:
    """Each weight to its nearest code. :param weight: [rows, columns] float32."""
    import torch

    columns = weight.shape[1]
    scales = find_scales(weight, form, None)
    codes = torch.empty(weight.shape, dtype=torch.int8)
    for rows in _row_blocks(weight):
        rounded = _grouped(weight[rows], form) / scales[rows][..., None]
        codes[rows] = (
            rounded.round_().clamp_(form.lowest, form.highest).flatten(1)[:, :columns].to(torch.int8)
        )
    return Quantized(codes.numpy(), scales.to(torch.float16).numpy(), form)


class Smoothing:
    """What inputs are divided by, and matrices that read them multiplied with, channel by channel, where both
    become integers (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, with a strength of one half).

    :param largest: [columns], the largest magnitude of each channel over the calibration inputs.
    :param weights: the matrices, each [rows, columns].
    """

    def __init__(self, largest: torch.Tensor, weights: Sequence[torch.Tensor]) -> None:
        import torch

        of_weights = torch.stack([weight.detach().abs().amax(dim=0) for weight in weights]).amax(dim=0)
        log = 0.5 * (_bounded(largest).log() - _bounded(of_weights).log())
        self.factors = torch.exp(log - log.mean())


def find_reach(
    tokens: torch.Tensor, weights: Sequence[torch.Tensor], smoothing: Smoothing | None = None
) -> float | None:
    """The largest magnitude of what is read, smoothed, if one scale made of it serves all tokens.

    It does where tokens are alike, as behind norms and attention. Where single ones are far larger than the
    others (massive activations: Sun et al. 2024, arXiv 2402.17762), it would leave those few codes: so what
    rounding adds to the products of a usual token is held against these.

    :param tokens: [tokens, columns], a thousand or so: one of them that is larger yet is cut off there.
    :param weights: the matrices that read them, each [rows, columns].
    """
    import torch

    factors = torch.ones(tokens.shape[1]) if smoothing is None else smoothing.factors
    reach = float((tokens / factors).abs().max())
    variance = (reach / STEPS) ** 2 / 12  # of what rounding adds to each number
    noise = variance * sum(float((weight * factors).square().sum()) for weight in weights)
    products = [(tokens @ weight.T).square().sum(dim=1) for weight in weights]
    usual = float(torch.stack(products).sum(dim=0).median())
    return reach if 0 < noise <= _MOST_NOISE * usual < math.inf else None


def _bounded(largest: torch.Tensor) -> torch.Tensor:
    return largest.clamp_min(max(_LEAST_SHARE * float(largest.median()), _TINY))


class InputStatistics:
    """What matrices that read the same input are quantized by: the inputs' second moments.

    :param hessian: [columns, columns] float32, the sum of ``x x^T`` over the calibration inputs ``x``.
    :raises ExportError: a Hessian that isn't finite.
    """

    def __init__(self, hessian: torch.Tensor, smoothing: Smoothing | None = None) -> None:
        import torch

        if not torch.isfinite(hessian).all():
            raise ExportError(
                "The model computes numbers that aren't finite when it reads the calibration text: "
                "take the recipe int8, which needs none, or another checkpoint."
            )
        self._smoothing = smoothing
        if smoothing is not None:
            hessian = hessian / smoothing.factors[:, None] / smoothing.factors
        self._diagonal = hessian.diagonal().clone()
        self._unused = self._diagonal <= 0
        self._order = torch.argsort(self._diagonal, descending=True)
        ordered = hessian[self._order][:, self._order]
        self._inverse = _inverse_factor(ordered, self._unused[self._order])
        self._hessian = hessian.clone()
        self._hessian.diagonal().add_(DAMPING * self._diagonal.mean())

    def compensate(self, weight: torch.Tensor, form: Format) -> Quantized:
        """GPTQ, then descent. :param weight: [rows, columns] float32."""
        if self._smoothing is None:
            return self._compensate(weight.clone(), form)
        factors = self._smoothing.factors
        made = self._compensate(weight * factors, form)
        return replace(made, smoothing=factors.numpy())

    def _compensate(self, work: torch.Tensor, form: Format) -> Quantized:
        import torch

        work[:, self._unused] = 0
        scales = find_scales(work, form, self._diagonal)
        codes = self._gptq(work, scales, form)
        if self._unused.all():
            return Quantized(codes.to(torch.int8).numpy(), scales.to(torch.float16).numpy(), form)
        groups = form.groups(work.shape[1])
        blocks = _row_blocks(work, groups * groups, _BLOCK_SYSTEMS)
        scales = torch.cat([self._refit(work[r], codes[r], scales[r], form) for r in blocks])
        codes = self._descend(work, codes, scales, form)
        codes[:, self._unused] = 0
        return Quantized(codes.to(torch.int8).numpy(), scales.to(torch.float16).numpy(), form)

    def _gptq(self, weight: torch.Tensor, scales: torch.Tensor, form: Format) -> torch.Tensor:
        """Codes [rows, columns], whole numbers in float32."""
        import torch

        columns = weight.shape[1]
        group_of = torch.arange(columns)[self._order] // form.width(columns)
        # A column of the weights is a row here: next to each other in memory.
        work, scales = weight.T[self._order], scales.T.contiguous()
        codes = torch.empty_like(work)
        for start in range(0, columns, _BLOCK):
            end = min(start + _BLOCK, columns)
            block, factor = work[start:end], self._inverse[start:end, start:end]
            errors = torch.empty_like(block)
            for column in range(end - start):
                scale, code = scales[group_of[start + column]], codes[start + column]
                torch.div(block[column], scale, out=code).round_().clamp_(form.lowest, form.highest)
                error = torch.addcmul(block[column], code, scale, value=-1, out=errors[column])
                error /= factor[column, column]
                block[column + 1 :].addr_(factor[column, column + 1 :], error, alpha=-1)
            work[end:].addmm_(self._inverse[start:end, end:].T, errors, alpha=-1)
        return codes[torch.argsort(self._order)].T.contiguous()

    def _refit(
        self, weight: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, form: Format
    ) -> torch.Tensor:
        """The scales [rows, groups] whose product with ``codes`` loses least, as float16 holds them."""
        import torch

        grouped = _grouped(codes, form)
        groups, width = grouped.shape[1:]
        # Of each row's system: products of a group's codes with the Hessian, then with every group's codes.
        system = torch.empty(len(weight), groups, groups)
        for group in range(groups):
            first = group * width
            part = self._hessian[first : first + width]
            met = _grouped(grouped[:, group, : len(part)] @ part[:, first:], form)
            system[:, group, group:] = (met * grouped[:, group:]).sum(dim=2)
            system[:, group:, group] = system[:, group, group:]
        wanted = (_grouped(weight @ self._hessian, form) * grouped).sum(dim=2)
        hold = _RIDGE * system.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
        hold[hold <= 0] = 1.0
        system.diagonal(dim1=1, dim2=2).add_(hold)
        # Not by LU: MKL's, of batches of 150 or more groups on several threads, fails or never ends.
        factor, failed = torch.linalg.cholesky_ex(system)
        found = torch.cholesky_solve((wanted + hold * scales)[..., None], factor)[..., 0]
        found[found.abs() < _TINY] = _TINY
        found = found.to(torch.float16).to(torch.float32)
        usable = torch.isfinite(found) & (failed == 0)[:, None]
        return torch.where(usable, found, scales)

    def _descend(
        self, weight: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, form: Format
    ) -> torch.Tensor:
        """Each column's codes made best once more while the others stay."""
        import torch

        columns = weight.shape[1]
        group_of = torch.arange(columns)[self._order] // form.width(columns)
        spread = scales.repeat_interleave(form.width(columns), dim=1)[:, :columns]
        slope = ((weight - codes * spread) @ self._hessian).T[self._order]
        scales, codes = scales.T.contiguous(), codes.T[self._order]
        hessian = self._hessian[self._order][:, self._order]
        for start in range(0, columns, _BLOCK):
            end = min(start + _BLOCK, columns)
            block, own = slope[start:end], hessian[start:end, start:end]
            changes = torch.empty_like(block)
            for column in range(end - start):
                scale, code = scales[group_of[start + column]], codes[start + column]
                best = (block[column] / (own[column, column] * scale)).add_(code).round_()
                best.nan_to_num_(0.0).clamp_(form.lowest, form.highest)
                change = torch.mul(best - code, scale, out=changes[column])
                block.addr_(own[column], change, alpha=-1)
                code.copy_(best)
            slope[end:].addmm_(hessian[end:, start:end], changes, alpha=-1)
        return codes[torch.argsort(self._order)].T.contiguous()


def find_scales(weight: torch.Tensor, form: Format, importance: torch.Tensor | None) -> torch.Tensor:
    """[rows, groups] float32, each a float16's value.

    :param importance: [columns], how much a squared error in a column counts; None for all alike.
    """
    import torch

    return torch.cat([_find_scales(weight[rows], form, importance) for rows in _row_blocks(weight)])


def _row_blocks(weight: torch.Tensor, numbers: int | None = None, most: int = _BLOCK_WEIGHTS) -> list[slice]:
    """Rows of ``most`` numbers at a time.

    :param numbers: what a row takes, if not its columns.
    """
    rows = max(1, most // (numbers or weight.shape[1]))
    return [slice(start, start + rows) for start in range(0, weight.shape[0], rows)]


def _find_scales(weight: torch.Tensor, form: Format, importance: torch.Tensor | None) -> torch.Tensor:
    import torch

    grouped = _grouped(weight, form)
    if importance is None:
        weights = torch.ones(1, 1, 1)
    else:
        padding = grouped.shape[1] * grouped.shape[2] - len(importance)
        weights = torch.nn.functional.pad(importance, (0, padding)).view(1, *grouped.shape[1:])
    largest = grouped.gather(2, grouped.abs().argmax(dim=2, keepdim=True))
    best_loss = torch.full(largest.shape, torch.inf)
    best = torch.full(largest.shape, _TINY)
    for end in (form.lowest, form.highest):  # the largest weight becomes the lowest code or the highest one
        for share in torch.linspace(_SMALLEST, 1.0, _CANDIDATES):
            scale = (largest / end * share).to(torch.float16).to(torch.float32)
            scale[scale.abs() < _TINY] = _TINY
            codes = (grouped / scale).round_().clamp_(form.lowest, form.highest)
            loss = ((codes * scale - grouped).square_() * weights).sum(dim=2, keepdim=True)
            better = loss < best_loss
            best_loss = torch.where(better, loss, best_loss)
            best = torch.where(better, scale, best)
    return best[..., 0].to(torch.float16).to(torch.float32)


def _grouped(weight: torch.Tensor, form: Format) -> torch.Tensor:
    """[rows, groups, group size], padded with zeros."""
    import torch

    rows, columns = weight.shape
    groups, width = form.groups(columns), form.width(columns)
    return torch.nn.functional.pad(weight, (0, groups * width - columns)).view(rows, groups, width)


def _inverse_factor(hessian: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse."""
    import torch

    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[unused] = 1
    mean, damping = diagonal.mean(), DAMPING
    for _ in range(_MOST_DAMPED):
        diagonal.add_(damping * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: torch.Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if not failed and torch.isfinite(upper).all():
                return upper
        damping *= 10  # inputs that are nearly dependent: a little more of the unit matrix
    raise ExportError(
        "The calibration text makes some inputs of the model too large to be calibrated on: "
        "take another text with --calibration, or the recipe int8, which needs none."
    )
