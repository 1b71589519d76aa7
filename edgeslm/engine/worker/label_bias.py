"""Label bias of an untrained model from a few labelled messages, kept only where it helps.

The bias of each label maximizes the likelihood of the labels with an L2 penalty on its logarithm, with one
more row of each label, of mean scores: a label that no message has isn't pushed down for that. The penalty,
and whether there is a bias at all, is chosen by leaving out one message at a time: see ``_helps``. Nodes
divide by the biases (``bundle.calibration.without_bias``). As a job, ``python -m`` of this module fits the
scores of an order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeslm.bundle.calibration import LEAST_PROBABILITY, LabelledBias
from edgeslm.ipc.job import Progress, serve, yield_processors

Floats = npt.NDArray[np.float64]

PENALTIES: Final = (0.3, 1.0, 3.0, 10.0)
_NEWTON_STEPS: Final = 12
_DIGITS: Final = 6


def fit_bias(
    scores: Sequence[Mapping[str, float]], truth: Sequence[str], labels: Sequence[str]
) -> LabelledBias:
    """:param scores: label probabilities of each message. :param truth: the right label of each."""
    logits = np.log(np.maximum([[of[label] for label in labels] for of in scores], LEAST_PROBABILITY))
    wanted = np.array([labels.index(label) for label in truth])
    before, was = _likelihoods(logits, wanted), logits.argmax(axis=1) == wanted
    tried = []
    for penalty in PENALTIES:
        held = np.empty_like(logits)
        for row in range(len(logits)):
            others = np.arange(len(logits)) != row
            held[row] = logits[row] + _fitted(logits[others], wanted[others], penalty)
        tried.append((_likelihoods(held, wanted), penalty, held.argmax(axis=1) == wanted))
    likelihoods, penalty, now = max(tried, key=lambda one: float(one[0].mean()))
    right, hits = int(was.sum()), int(now.sum())
    if not _helps(likelihoods - before, int((now & ~was).sum()), int((was & ~now).sum())):
        return LabelledBias(None, len(logits), right, right)
    bias = np.exp(-_fitted(logits, wanted, penalty))
    rounded = [max(round(float(of), _DIGITS), LEAST_PROBABILITY) for of in bias / bias.sum()]
    return LabelledBias(dict(zip(labels, rounded, strict=True)), len(logits), right, hits)


def _helps(gains: Floats, won: int, lost: int) -> bool:
    """Whether a bias helps on rows left out, and not only by chance.

    :param gains: growth of each row's log-likelihood.
    :param won: number of rows that the bias puts right; ``lost``: of those that it makes wrong.
    :return: whether the mean gain is above twice its standard error, and four more rows are right. Without
        this, a fifth of the draws of ten rows lost points on a set that no bias helps (benchmarks/LOG.md).
    """
    gain, error = float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5
    return gain > 2 * error and won - lost >= 4


def _fitted(logits: Floats, wanted: npt.NDArray[np.int64], penalty: float) -> Floats:
    """Offsets [labels] that are added to logits [rows, labels], by Newton's method."""
    count = logits.shape[1]
    logits = np.vstack([logits, np.repeat(logits.mean(axis=0, keepdims=True), count, axis=0)])
    wanted = np.concatenate([wanted, np.arange(count)])
    offsets = np.zeros(count)
    hits = np.bincount(wanted, minlength=count)
    for _ in range(_NEWTON_STEPS):
        shares = _softmax(logits + offsets)
        slope = hits - shares.sum(axis=0) - penalty * offsets
        bend = np.diag(shares.sum(axis=0) + penalty) - shares.T @ shares
        offsets = offsets + np.clip(
            np.linalg.solve(bend, slope), -1, 1
        )  # far from the end, a step is too long
    return offsets


def _softmax(logits: Floats) -> Floats:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def _likelihoods(logits: Floats, wanted: npt.NDArray[np.int64]) -> Floats:
    """Log-likelihood of each row's label."""
    shares = _softmax(logits)[np.arange(len(wanted)), wanted]
    return np.asarray(np.log(np.maximum(shares, LEAST_PROBABILITY)))


def _answer(order: Any, progress: Progress) -> dict[str, Any]:
    """:param order: ``scores`` [messages][labels], ``truth`` [messages], and ``labels``."""
    labels = tuple(order["labels"])
    scores = [dict(zip(labels, row, strict=True)) for row in order["scores"]]
    return asdict(fit_bias(scores, order["truth"], labels))


if __name__ == "__main__":
    yield_processors(wholly=False)
    serve(_answer)
