"""Codes and scales for one matrix, by rounding or by GPTQ; torch, no models.

GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other and each one's error is
spread over those that are still float, so that the product with the calibration inputs changes least. Columns
go from the largest diagonal entry of the Hessian to the smallest, with the groups' scales fixed before (the
order is gone afterwards, so nothing has to be permuted when the model runs). A scale is the one of a few
candidates that loses least, weighted by the Hessian's diagonal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeslm_export.formats import Format
from edgeslm_export.matrices import Quantized

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch

DAMPING = 0.01
"""Share of the mean diagonal that is added to the Hessian, as in the paper."""
_CANDIDATES = 8
_SMALLEST = 0.75
"""Scales from this share of the one that just covers the group."""
_BLOCK = 128
_BLOCK_WEIGHTS = 1_000_000
_MOST_DAMPED = 8
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


def compensate(weight: torch.Tensor, hessian: torch.Tensor, form: Format) -> Quantized:
    """GPTQ.

    :param weight: [rows, columns] float32. :param hessian: [columns, columns] float32, the sum of ``x x^T``
        over the calibration inputs ``x`` of this matrix.
    :raises ExportError: a Hessian that isn't finite.
    """
    import torch

    if not torch.isfinite(hessian).all():
        raise ExportError(
            "The model computes numbers that aren't finite when it reads the calibration text: "
            "take the recipe int8, which needs none, or another checkpoint."
        )

    work = weight.clone()
    rows, columns = work.shape
    diagonal = hessian.diagonal().clone()
    unused = diagonal <= 0
    work[:, unused] = 0
    scales = find_scales(work, form, diagonal)
    order = torch.argsort(diagonal, descending=True)
    group_of = torch.arange(columns)[order] // form.group_size
    inverse = _inverse_factor(hessian[order][:, order], unused[order])
    work = work[:, order]
    codes = torch.empty(rows, columns, dtype=torch.int8)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        block, factor = work[:, start:end].clone(), inverse[start:end, start:end]
        errors = torch.empty_like(block)
        for column in range(end - start):
            scale = scales[:, group_of[start + column]]
            code = (block[:, column] / scale).round_().clamp_(form.lowest, form.highest)
            error = (block[:, column] - code * scale) / factor[column, column]
            block[:, column:].addr_(error, factor[column, column:], alpha=-1)
            errors[:, column] = error
            codes[:, start + column] = code.to(torch.int8)
        work[:, end:] -= errors @ inverse[start:end, end:]
    codes = codes[:, torch.argsort(order)]
    return Quantized(codes.contiguous().numpy(), scales.to(torch.float16).numpy(), form)


def find_scales(weight: torch.Tensor, form: Format, importance: torch.Tensor | None) -> torch.Tensor:
    """[rows, groups] float32, each a float16's value.

    :param importance: [columns], how much a squared error in a column counts; None for all alike.
    """
    import torch

    return torch.cat([_find_scales(weight[rows], form, importance) for rows in _row_blocks(weight)])


def _row_blocks(weight: torch.Tensor) -> list[slice]:
    """Rows of some megabytes at a time: a vocabulary's matrix several times over would not fit."""
    rows = max(1, _BLOCK_WEIGHTS // weight.shape[1])
    return [slice(start, start + rows) for start in range(0, weight.shape[0], rows)]


def _find_scales(weight: torch.Tensor, form: Format, importance: torch.Tensor | None) -> torch.Tensor:
    import torch

    grouped = _grouped(weight, form)
    if importance is None:
        weights = torch.ones(1, 1, 1)
    else:
        padding = grouped.shape[1] * form.group_size - len(importance)
        weights = torch.nn.functional.pad(importance, (0, padding)).view(1, -1, form.group_size)
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
    padding = form.groups(columns) * form.group_size - columns
    return torch.nn.functional.pad(weight, (0, padding)).view(rows, -1, form.group_size)


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
