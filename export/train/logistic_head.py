"""A classifier on a frozen encoder's embeddings: multinomial logistic regression.

Its strength is chosen by stratified cross-validation, and what it says of rows that it did not learn from
(out of fold) is kept: calibration and comparison need it. Knows vectors and labels, no encoder and no file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeslm_export.data.rows import equal_texts

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]
    Integers = npt.NDArray[np.int64]
    Fold = tuple[Integers, Integers]  # numbers of rows to learn from, and of those to test with

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse regularization strengths (scikit-learn's C) that are tried."""
FOLDS = 5
_SEED = 0
_LEAST_SHARE = 0.01
"""Of a label in a row, for the row to count for it at all."""


@dataclass(frozen=True, slots=True)
class Learned:
    """``weight`` [labels, dimension], ``bias`` [labels]; ``logits`` [held, labels] are out of fold, of the
    rows ``held``."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    strength: float
    held: Integers
    logits: Floats


def split_folds(
    truth: Integers, labels: int, texts: Sequence[str], doubted: Sequence[int] = ()
) -> list[Fold]:
    """Stratified folds; the same for the same rows.

    Equal texts (but for case and space) fall into the same fold: what was learned from isn't tested with.
    What is learned from has every label, so a row that alone stands for its label there is not tested.

    :param truth: [rows], indices below ``labels``, each at least twice. :param texts: [rows].
    :param doubted: rows that are tested and never learned from; each label has others.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    members, out = equal_texts(texts), set(doubted)
    first = np.array([truth[rows[0]] for rows in members])
    folds = max(2, min(FOLDS, int(np.bincount(first, minlength=labels).max())))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label with fewer rows than folds isn't tested in each of them
        for _, tested in StratifiedKFold(folds, shuffle=True, random_state=_SEED).split(first, first):
            left = {row for group in _others(members, tested) for row in group} - out
            missing = set(truth) - {truth[row] for row in left}
            kept = [
                members[group] for group in tested if not missing & {truth[row] for row in members[group]}
            ]
            test = np.sort(np.array([row for group in kept for row in group], np.int64))
            found.append((np.setdiff1d(np.arange(len(truth)), [*test, *out]), test))
    return [fold for fold in found if len(fold[1])]


def _others(members: Sequence[list[int]], tested: Integers) -> list[list[int]]:
    left_out = set(tested.tolist())
    return [group for number, group in enumerate(members) if number not in left_out]


def learn(
    vectors: npt.NDArray[np.float32],
    truth: Integers,
    labels: int,
    folds: Sequence[Fold],
    shares: Floats | None = None,
    strengths: Sequence[float] = STRENGTHS,
    rows: Integers | None = None,
) -> Learned:
    """Chooses the strength by the calibrated loss out of fold, and fits on all rows.

    :param vectors: [rows, dimension]; ``truth``: [rows], indices below ``labels``; ``folds``: see
        ``split_folds``; ``shares``: [rows, labels], how likely each label is, where known; ``rows``: what
        is fitted in the end, all if none are named.
    """
    import numpy as np
    from edgeslm_export.evaluate.metrics import fit_temperature, softmax

    held = np.concatenate([test for _, test in folds])
    best: tuple[float, float, Floats] | None = None
    for strength in strengths:
        parts = []
        for train, test in folds:
            some = None if shares is None else shares[train]
            weight, bias = fit_layer(vectors[train], truth[train], strength, labels, some)
            parts.append(vectors[test] @ weight.T + bias)
        logits: Floats = np.concatenate(parts)
        chosen = softmax(logits / fit_temperature(logits, truth[held]))[np.arange(len(held)), truth[held]]
        loss = float(-np.log(np.maximum(chosen, 1e-12)).mean())
        if best is not None and loss >= best[0]:
            break  # the loss has one lowest point over the strengths
        best = (loss, strength, logits)
    if best is None:
        raise ExportError("No strength could be tried.")
    _, strength, logits = best
    kept = np.arange(len(truth)) if rows is None else rows
    some = None if shares is None else shares[kept]
    weight, bias = fit_layer(vectors[kept], truth[kept], strength, labels, some)
    return Learned(weight.astype(np.float32), bias.astype(np.float32), strength, held, logits)


def fit_layer(
    vectors: npt.NDArray[np.float32],
    truth: Integers,
    strength: float,
    labels: int,
    shares: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Fits on all of the rows; with ``shares`` each row counts for every label by its share.

    :param strength: scikit-learn's C.
    :return: weight [labels, dimension] and bias [labels]; two labels are given a row each.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    counts = None
    if shares is not None:
        row, truth = np.nonzero(shares >= _LEAST_SHARE)
        vectors, counts = vectors[row], shares[row, truth]
    # One thread: for matrices of this size others only wait for each other, for minutes on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # not quite converged is good enough for one strength of several
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-4).fit(vectors, truth, counts)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if labels == 2:
        return np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias
