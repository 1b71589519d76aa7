"""A classifier on a frozen encoder's embeddings: multinomial logistic regression.

Its strength is chosen by stratified cross-validation, and what it says of rows that it did not learn from
(out of fold) is kept: calibration and comparison need it. Knows vectors and labels, no encoder and no file.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse regularization strengths (scikit-learn's C) that are tried."""
FOLDS = 5
_SEED = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """``weight`` [labels, dimension], ``bias`` [labels]; ``logits`` [rows, labels] are out of fold."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    strength: float
    logits: Floats


def split_folds(truth: Integers, labels: int) -> list[tuple[Integers, Integers]]:
    """Stratified folds as pairs of row numbers, to learn from and to test with; the same for the same rows.

    What is learned from has every label: rows of one label never all lie in one fold.


    :param truth: [rows], indices below ``labels``, each at least twice.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.bincount(truth, minlength=labels).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label with fewer rows than folds isn't tested in each of them
        split = list(StratifiedKFold(folds, shuffle=True, random_state=_SEED).split(truth, truth))
    return [(np.asarray(train, np.int64), np.asarray(test, np.int64)) for train, test in split]


def learn(vectors: npt.NDArray[np.float32], truth: Integers, labels: int) -> Learned:
    """Chooses the strength by the calibrated loss out of fold, and fits on all rows.

    :param vectors: [rows, dimension]; ``truth``: [rows], indices below ``labels``, each at least twice.
    """
    import numpy as np
    from edgeslm_export.statistics import fit_temperature, softmax

    splits = split_folds(truth, labels)
    best: tuple[float, float, Floats] | None = None
    for strength in STRENGTHS:
        logits = np.zeros((len(truth), labels))
        for train, test in splits:
            weight, bias = fit_layer(vectors[train], truth[train], strength, labels)
            logits[test] = vectors[test] @ weight.T + bias
        chosen = softmax(logits / fit_temperature(logits, truth))[np.arange(len(truth)), truth]
        loss = float(-np.log(np.maximum(chosen, 1e-12)).mean())
        if best is None or loss < best[0]:
            best = (loss, strength, logits)
    if best is None:
        raise ExportError("No strength could be tried.")
    _, strength, logits = best
    weight, bias = fit_layer(vectors, truth, strength, labels)
    return Learned(weight.astype(np.float32), bias.astype(np.float32), strength, logits)


def fit_layer(
    vectors: npt.NDArray[np.float32], truth: Integers, strength: float, labels: int
) -> tuple[Floats, Floats]:
    """Fits on all of the rows.

    :param strength: scikit-learn's C.
    :return: weight [labels, dimension] and bias [labels]; two labels are given a row each.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not quite converged is good enough for one strength of several
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-4).fit(vectors, truth)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if labels == 2:
        return np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias
