"""Label noise: held-out predictions of each row's label, for finding label errors.

Averages the log-probabilities of two different classifiers: a head on an encoder's vectors, and logistic
regression on words and word pairs. The two classifiers seldom make the same mistake, so far fewer correct
labels are reported as errors (figures in ``benchmarks/LOG.md``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.evaluate.report_card import embed_texts, load_encoder
from edgeslm_export.train.calibration import fit_calibration, log_softmax
from edgeslm_export.train.logistic_head import learn, split_folds

from edgeslm.bundle.calibration import LEAST_PROBABILITY

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from edgeslm_export.train.logistic_head import Fold

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

_STRENGTH: Final = 10.0
_STRENGTH_OF_WORDS: Final = 20.0
"""Inverse regularization strength (scikit-learn's C) of the classifier on words; ``_STRENGTH`` is that of the
head."""
_MOST_WORDS: Final = 50_000
"""Maximum number of words and word pairs, the most frequent ones, that the classifier on words uses. The
classifier has a weight for each combination of word (or pair) and label."""
_WORD: Final = r"\w+|[^\w\s]"


def held_out_labels(
    bundle: Path, rows: Sequence[LabelledRow], labels: Sequence[str]
) -> tuple[Integers, Integers, Floats]:
    """:param bundle: an encoder's bundle.
    :return: indices of the rows with a prediction, the indices of their labels, and probabilities [rows,
        labels].
    """
    import numpy as np

    texts = [row.text for row in rows]
    truth = np.array([labels.index(row.label) for row in rows], np.int64)
    folds = split_folds(truth, len(labels), texts)
    vectors = embed_texts(load_encoder(bundle), texts)
    head = learn(vectors, truth, len(labels), folds, strengths=(_STRENGTH,))
    verdicts = fit_calibration(log_softmax(head.logits), truth[head.held]).verdicts
    by_meaning = np.array([verdict.scores for verdict in verdicts])
    by_words = shares_by_words(texts, truth, folds)
    log_mean = (np.log(np.maximum(by_meaning, LEAST_PROBABILITY)) + np.log(by_words)) / 2
    return head.held, truth[head.held], np.exp(log_softmax(log_mean))


def shares_by_words(texts: Sequence[str], truth: Integers, folds: Sequence[Fold]) -> Floats:
    """Held-out probabilities [tested, labels] by the classifier on words, in the order of the folds. Each
    fold's training set has all labels."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD, max_features=_MOST_WORDS
    ).fit_transform(texts)
    found = []
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # not quite converged is good enough
        for train, test in folds:
            model = LogisticRegression(C=_STRENGTH_OF_WORDS, max_iter=300).fit(words[train], truth[train])
            found.append(np.maximum(model.predict_proba(words[test]), LEAST_PROBABILITY))
    return np.concatenate(found)
