"""GPTQ: quantizes one matrix to codes and scales, by rounding or by GPTQ with coordinate descent.

GPTQ (Frantar et al., 2022, arXiv 2210.17323) rounds the columns one after another and spreads each column's
error over the columns that are still float, so that the product with the calibration inputs changes least.
Columns are processed in the order of the Hessian's diagonal, largest first. The groups' scales are fixed
before GPTQ, so the runtime needs no permutation. Each scale is the candidate with the lowest error, weighted
by the Hessian's diagonal.

Then the result is refined: least squares find the best scales for the codes (a small system for each row),
and one sweep of coordinate descent improves the codes (QuantEase, Behdin et al., 2023, arXiv 2309.01885). The
refinement removes another seven percent of the error and takes about as long as GPTQ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from edgeslm_export.quantize.formats import STEPS, Format
from edgeslm_export.quantize.packing import Quantized

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")

DAMPING = 0.01
"""Share of the Hessian's mean diagonal that is added to its diagonal, as in the GPTQ paper."""
_SHRINKAGE = 0.2
"""Share by which the products of different inputs are reduced, since those of other texts differ from those
of the calibration text (``benchmarks/LOG.md``)."""
_CANDIDATES = 8
_SMALLEST = 0.75
"""The smallest candidate scale, as a share of the scale with which the largest code represents the group's
largest weight."""
_FEW_CANDIDATES = 4
"""Number of candidate scales, and their smallest share, for a matrix whose scales coordinate descent improves
later."""
_SMALLEST_OF_FEW = 0.8
_SWEEPS = 2
"""Number of sweeps of coordinate descent. On SmolLM2-135M a third sweep reduces the loss by 1.4 %."""
_BLOCK = 128
_BLOCK_ROWS = 1024
"""Most rows of a block that one core quantizes."""
_BLOCK_WEIGHTS = 65_536
"""Number of weights of which all candidate scales are tried at a time, so that they stay in the CPU cache."""
_GPU_BLOCK_WEIGHTS = 1 << 24
_MOST_DAMPED = 8
_LEAST_SHARE = 0.05
"""Lower bound of channel magnitudes in smoothing, as a share of their median. Without this bound, a channel
that is nearly silent in calibration gets a huge factor, and a token that uses this channel loses all
precision in other channels."""
_MOST_NOISE = 0.006
"""Activations get one scale for all tokens only if the rounding noise stays below this limit. The noise is
the expected sum of squared errors in a token's matrix products, divided by the median over tokens of the
products' sum of squares. In SmolLM2-135M the noise is below this limit for inputs that come from norms or
attention, and above it for most inputs that come from gated MLP values (``benchmarks/LOG.md``)."""
_TINY = 1e-7
"""Minimum scale. It is just above 6e-8, the smallest positive float16 value (a subnormal)."""


def round_to_nearest(weight: torch.Tensor, form: Format) -> Quantized:
    """Rounds each weight to its nearest code. :param weight: [rows, columns] float32."""
    import torch

    columns = weight.shape[1]

    def rounded(part: torch.Tensor) -> Coded:
        codes = torch.empty(part.shape, dtype=torch.int8)
        scales = find_scales(part, form, None)
        for rows in _cache_blocks(part):
            ratios = _grouped(part[rows], form) / scales[rows][..., None]
            ratios.round_().clamp_(form.lowest, form.highest)
            codes[rows] = ratios.flatten(1)[:, :columns].to(torch.int8)
        return codes, scales

    return _joined(_on_all_cores(rounded, weight), form)


Coded = tuple["torch.Tensor", "torch.Tensor"]
"""Codes [rows, columns] and scales [rows, groups] with float16 values."""


def _joined(parts: Sequence[Coded], form: Format) -> Quantized:
    import torch

    codes, scales = (torch.cat(some) for some in zip(*parts, strict=True))
    return Quantized(codes.to(torch.int8).cpu().numpy(), scales.to(torch.float16).cpu().numpy(), form)


def _on_all_cores(function: Callable[[torch.Tensor], _T], weight: torch.Tensor) -> list[_T]:
    """Results of ``function`` for blocks of a matrix's rows, computed on all of torch's threads; a GPU takes
    all rows at once.

    The blocks are the same for any number of threads, so the results are too. Quantization consists of many
    small steps. One core for each block is up to ten times as fast as all cores for each step.
    """
    import torch

    if not weight.is_cpu:
        return [function(weight)]
    threads = torch.get_num_threads()
    count = 2 * math.ceil(len(weight) / (2 * _BLOCK_ROWS))
    blocks = weight.tensor_split(min(count, max(1, len(weight))))

    def alone(block: torch.Tensor) -> _T:
        with torch.inference_mode():  # a mode belongs to a thread
            return function(block)

    if threads == 1:
        return [alone(block) for block in blocks]
    try:
        with ThreadPoolExecutor(threads, "quantize", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(alone, blocks))
    finally:
        torch.set_num_threads(threads)


class Smoothing:
    """SmoothQuant (Xiao et al., 2023, arXiv 2211.10438), strength 0.5: inputs are divided by ``factors``
    [columns], and the matrices that read these inputs are multiplied by ``factors``, before both are rounded
    to integers.

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
    """The largest magnitude of the (smoothed) inputs, if one scale can serve all tokens; else None.

    One scale is enough if all tokens have similar magnitudes, as after norms and attention. If a few tokens
    are far larger than the others (massive activations, Sun et al., 2024, arXiv 2402.17762), one scale would
    leave few codes for the others. So one scale is used only if its rounding noise is below a limit
    (``_MOST_NOISE``).

    :param tokens: [tokens, columns], a sample of about a thousand inputs. A device clips inputs that exceed
        the returned magnitude.
    :param weights: the matrices that read these inputs, each [rows, columns].
    """
    import torch

    factors = torch.ones(tokens.shape[1]) if smoothing is None else smoothing.factors
    reach = float((tokens / factors).abs().max())
    variance = (reach / STEPS) ** 2 / 12  # of the rounding noise of each number
    noise = variance * sum(float((weight * factors).square().sum()) for weight in weights)
    products = [(tokens @ weight.T).square().sum(dim=1) for weight in weights]
    usual = float(torch.stack(products).sum(dim=0).median())
    return reach if 0 < noise <= _MOST_NOISE * usual < math.inf else None


def _bounded(largest: torch.Tensor) -> torch.Tensor:
    return largest.clamp_min(max(_LEAST_SHARE * float(largest.median()), _TINY))


class InputStatistics:
    """Second moments of the calibration inputs, for quantizing the matrices that read these inputs.

    :param hessian: [columns, columns] float32, the sum of ``x x^T`` over the calibration inputs ``x``.
    :raises ExportError: the Hessian isn't finite.
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
        hessian = hessian * (1 - _SHRINKAGE)
        hessian.diagonal().copy_(self._diagonal)
        self._unused = self._diagonal <= 0
        self._order = torch.argsort(self._diagonal, descending=True)
        ordered = hessian[self._order][:, self._order]
        self._inverse = _inverse_factor(ordered, self._unused[self._order])
        del ordered
        self._hessian = hessian
        self._hessian.diagonal().add_(DAMPING * self._diagonal.mean())

    def compensate(self, weight: torch.Tensor, form: Format) -> Quantized:
        """Quantizes a matrix by GPTQ, then improves its scales and codes by coordinate descent.
        :param weight: [rows, columns] float32."""
        factors = None if self._smoothing is None else self._smoothing.factors

        def compensated(rows: torch.Tensor) -> Coded:
            return self._compensate(rows.clone() if factors is None else rows * factors, form)

        made = _joined(_on_all_cores(compensated, weight), form)
        return made if factors is None else replace(made, smoothing=factors.cpu().numpy())

    def _compensate(self, work: torch.Tensor, form: Format) -> Coded:
        work[:, self._unused] = 0
        scales = find_scales(work, form, self._diagonal)
        codes = self.codes_of(work, scales, form)
        if not self._unused.all():
            for _ in range(_SWEEPS):
                codes, scales = self._sweep(work, codes, scales, form)
            codes[:, self._unused] = 0
        return codes, scales

    def codes_of(self, weight: torch.Tensor, scales: torch.Tensor, form: Format) -> torch.Tensor:
        """GPTQ's codes [rows, columns], whole numbers in float32."""
        import torch

        columns = weight.shape[1]
        group_of = torch.arange(columns)[self._order] // form.width(columns)
        # Transposed, so that the weights of a column are contiguous.
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

    def _sweep(
        self, weight: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, form: Format
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One sweep of coordinate descent over a matrix: for one group after another, the best scale, then
        the best codes of one column after another, with everything else fixed.

        :return: codes [rows, columns] and scales [rows, groups]; scales have float16 values.
        """

        columns, width = weight.shape[1], form.width(weight.shape[1])
        codes, scales = codes.T.contiguous(), scales.T.contiguous()
        if form.by_row:
            products, wanted = self._hessian @ codes, self._hessian @ weight.T
            _set_scale(scales[0], (codes * wanted).sum(dim=0), (codes * products).sum(dim=0))
            slope = wanted - products * scales[0]
        else:
            slope = self._hessian @ (weight.T - codes * _spread(scales, width, columns))
        for start in range(0, columns, _BLOCK):
            end = min(start + _BLOCK, columns)
            block, own = slope[start:end], self._hessian[start:end, start:end]
            before = codes[start:end] * _spread(scales, width, end)[start:end]
            for column in range(end - start):
                scale, code = scales[(start + column) // width], codes[start + column]
                if (start + column) % width == 0 and not form.by_row:
                    group = slice(column, min(column + width, end - start))
                    kept, of_group = scale.clone(), codes[start:end][group]
                    curvature = (of_group * (own[group, group] @ of_group)).sum(dim=0)
                    _set_scale(scale, (of_group * block[group]).sum(dim=0) + curvature * kept, curvature)
                    block[column:].addmm_(own[column:, group], of_group * (scale - kept), alpha=-1)
                best = (block[column] / (own[column, column] * scale)).add_(code).round_()
                best.nan_to_num_(0.0).clamp_(form.lowest, form.highest)
                block[column + 1 :].addr_(own[column, column + 1 :], (best - code) * scale, alpha=-1)
                code.copy_(best)
            changes = codes[start:end] * _spread(scales, width, end)[start:end] - before
            slope[end:].addmm_(self._hessian[end:, start:end], changes, alpha=-1)
        return codes.T.contiguous(), scales.T.contiguous()


def _set_scale(scale: torch.Tensor, wanted: torch.Tensor, curvature: torch.Tensor) -> None:
    """Replaces each row's scale by ``wanted / curvature``, rounded to float16, if that is a usable number.

    :param scale: [rows], changed in place.
    """
    import torch

    found = (wanted / curvature).to(torch.float16).to(torch.float32)
    usable = torch.isfinite(found) & (found.abs() >= _TINY) & (curvature > 0)
    scale.copy_(torch.where(usable, found, scale))


def _spread(scales: torch.Tensor, width: int, columns: int) -> torch.Tensor:
    """The scale of each of the first ``columns`` columns, [columns, rows]. :param scales: [groups, rows]."""
    return scales[: -(-columns // width)].repeat_interleave(width, dim=0)[:columns]


def find_scales(weight: torch.Tensor, form: Format, importance: torch.Tensor | None) -> torch.Tensor:
    """Scales [rows, groups], float32 with float16 values.

    :param importance: [columns], the weight of each column's squared error; None for equal weights.
    """
    import torch

    return torch.cat([_find_scales(weight[rows], form, importance) for rows in _cache_blocks(weight)])


def _cache_blocks(weight: torch.Tensor) -> list[slice]:
    """Slices that split the rows into blocks of at most ``_BLOCK_WEIGHTS`` weights, but at least one row; on
    a GPU of more."""
    rows = max(1, (_BLOCK_WEIGHTS if weight.is_cpu else _GPU_BLOCK_WEIGHTS) // weight.shape[1])
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
    # The largest weight gets the lowest code, which is the largest in magnitude, or the highest code.
    if importance is None:
        tried = [(e, share) for e in (form.lowest, form.highest) for share in _shares(_SMALLEST, _CANDIDATES)]
    else:
        tried = [(form.lowest, share) for share in _shares(_SMALLEST_OF_FEW, _FEW_CANDIDATES)]
        tried.append((form.highest, 1.0))
    for end, share in tried:
        scale = _usable(largest / end * share)
        codes = (grouped / scale).round_().clamp_(form.lowest, form.highest)
        loss = ((codes * scale - grouped).square_() * weights).sum(dim=2, keepdim=True)
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        best = torch.where(better, scale, best)
    return best[..., 0]


def squared_errors(weight: torch.Tensor, form: Format) -> torch.Tensor:
    """The squared error of each column [columns], summed over the rows, of a matrix that is rounded with the
    simplest scales: the largest weight of each group gets the lowest code."""
    import torch

    def found(part: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(part.shape[1])
        for rows in _cache_blocks(part):
            grouped = _grouped(part[rows], form)
            scale = _usable(grouped.gather(2, grouped.abs().argmax(dim=2, keepdim=True)) / form.lowest)
            codes = (grouped / scale).round_().clamp_(form.lowest, form.highest)
            total += (codes * scale - grouped).square_().flatten(1)[:, : part.shape[1]].sum(dim=0)
        return total

    return torch.stack(_on_all_cores(found, weight)).sum(dim=0)


def _shares(smallest: float, count: int) -> list[float]:
    return [smallest + (1.0 - smallest) * number / (count - 1) for number in range(count)]


def _usable(scale: torch.Tensor) -> torch.Tensor:
    """Scales rounded to float16, none of them zero, in float32."""
    import torch

    scale = scale.to(torch.float16).to(torch.float32)
    scale[scale.abs() < _TINY] = _TINY
    return scale


def _grouped(weight: torch.Tensor, form: Format) -> torch.Tensor:
    """The weights as [rows, groups, group size], padded with zeros."""
    import torch

    rows, columns = weight.shape
    groups, width = form.groups(columns), form.width(columns)
    return torch.nn.functional.pad(weight, (0, groups * width - columns)).view(rows, groups, width)


def _inverse_factor(hessian: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse.

    It is the inverse of an upper triangular ``R`` with ``R R^T`` = the damped Hessian, and ``R`` is the
    Cholesky factor of the Hessian with its rows and columns in reverse order. So the inverse itself, which
    LAPACK computes slowly, isn't needed.
    """
    import torch

    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[unused] = 1
    mean, damping = diagonal.mean(), DAMPING
    for _ in range(_MOST_DAMPED):
        diagonal.add_(damping * mean)
        reverse, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            identity = torch.eye(len(damped))
            upper = torch.linalg.solve_triangular(reverse.flip(0, 1), identity, upper=True)
            if torch.isfinite(upper).all():
                return upper
        damping *= 10  # for inputs that are nearly linearly dependent
    raise ExportError(
        "The calibration text makes some inputs of the model too large to be calibrated on: "
        "take another text with --calibration, or the recipe int8, which needs none."
    )
