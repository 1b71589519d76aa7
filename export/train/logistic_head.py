"""Logistic head: multinomial logistic regression on a frozen encoder's embeddings.

Stratified cross-validation chooses the regularization; its out-of-fold predictions are used for calibration
and to compare methods.
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
    Fold = tuple[Integers, Integers]  # indices of training rows and of test rows

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Candidate inverse regularization strengths (scikit-learn's C)."""
FOLDS = 5
_SEED = 0
_LEAST_SHARE = 0.01
"""Minimum probability of a soft label; labels with a lower probability are ignored."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A trained head: ``weight`` [labels, dimension], ``bias`` [labels], and out-of-fold ``logits`` [held,
    labels] of the rows ``held``."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    strength: float
    held: Integers
    logits: Floats


def split_folds(
    truth: Integers, labels: int, texts: Sequence[str], doubted: Sequence[int] = ()
) -> list[Fold]:
    """Splits rows into stratified folds; the same rows always give the same folds.

    Equal texts (``bare_text``) are in the same fold, so that no test text was trained on. Every training set
    has all labels; rows without which a training set would lack a label aren't tested.

    :param truth: [rows], each row's label as an index below ``labels``, the number of labels; each label has
        at least two rows. :param texts: [rows].
    :param doubted: rows that are tested but never trained on; each label also has rows that aren't doubted.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    members, out = equal_texts(texts), set(doubted)
    first = np.array([truth[rows[0]] for rows in members])
    folds = max(2, min(FOLDS, int(np.bincount(first, minlength=labels).max())))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about labels with fewer rows than folds
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
    """Chooses the regularization strength with the lowest calibrated out-of-fold loss, then fits on all rows.

    :param vectors: [rows, dimension]. :param truth: [rows], label indices below ``labels``. :param folds: see
        ``split_folds``. :param shares: [rows, labels], soft labels.
    :param rows: indices of rows for the final fit; by default all.
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
            break  # the loss has a single minimum over the strengths
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
    """Fits a logistic regression. With ``shares`` each row counts for every label, weighted by the label's
    share.

    :param strength: scikit-learn's C.
    :return: weight [labels, dimension] and bias [labels], even for two labels.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    counts = None
    if shares is not None:
        row, truth = np.nonzero(shares >= _LEAST_SHARE)
        vectors, counts = vectors[row], shares[row, truth]
    # One thread: on small matrices several wait for each other, on a busy machine for minutes.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # not quite converged is good enough
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-4).fit(vectors, truth, counts)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if labels == 2:
        return np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias
