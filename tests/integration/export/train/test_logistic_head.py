"""A classifier on embeddings: its folds, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
from edgeslm_export.evaluate.metrics import softmax
from edgeslm_export.train.logistic_head import FOLDS, fit_layer, learn, split_folds
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.integers(0, 100))
def test_every_row_is_tested_once_by_what_knows_every_label(counts: list[int], seed: int) -> None:
    """A label of two rows once made two folds of all rows, which said little about the task."""
    truth = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(truth)
    folds = split_folds(truth, len(counts), [str(row) for row in range(len(truth))])
    assert len(folds) == min(FOLDS, max(counts))
    assert sorted(row for _, test in folds for row in test) == list(range(len(truth)))
    for train, test in folds:
        assert not set(train) & set(test)
        assert set(truth[train]) == set(range(len(counts)))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcdefgh")), min_size=8, max_size=60))
def test_equal_texts_are_never_on_both_sides(rows: list[tuple[int, str]]) -> None:
    """Devices repeat themselves: a message that was learned from says nothing when it is tested with."""
    rows += [(label, f"{label} {number}") for label in range(4) for number in range(2)]
    truth = np.array([label for label, _ in rows])
    texts = [text.upper() if row % 2 else f" {text} " for row, (_, text) in enumerate(rows)]
    folds = split_folds(truth, 4, texts)
    assert folds
    for train, test in folds:
        assert not set(train) & set(test) and len(train) + len(test) == len(rows)
        assert set(truth[train]) == set(range(4))
        learned_from = {texts[row].strip().casefold() for row in train}
        assert not [row for row in test if texts[row].strip().casefold() in learned_from]


def test_what_lies_apart_is_told_apart() -> None:
    random = np.random.default_rng(3)
    truth = np.arange(60) % 3
    vectors = (np.eye(3)[truth] + random.standard_normal((60, 3)) * 0.1).astype(np.float32)
    learned = learn(vectors, truth, 3, split_folds(truth, 3, [str(row) for row in range(60)]))
    assert learned.weight.shape == (3, 3) and learned.bias.shape == (3,)
    assert ((vectors @ learned.weight.T + learned.bias).argmax(1) == truth).all()
    assert (learned.logits.argmax(1) == truth[learned.held]).mean() > 0.9


def test_a_teachers_shares_make_a_head_less_sure() -> None:
    random = np.random.default_rng(3)
    truth = np.arange(90) % 3
    vectors = (np.eye(3)[truth] + random.standard_normal((90, 3)) * 0.05).astype(np.float32)
    folds = split_folds(truth, 3, [str(row) for row in range(90)])
    shares = 0.1 + 0.7 * np.eye(3)[truth]
    sure, unsure = learn(vectors, truth, 3, folds), learn(vectors, truth, 3, folds, shares)
    said = softmax(vectors @ unsure.weight.T + unsure.bias)
    assert (said.argmax(1) == truth).all()
    assert said.max(1).mean() == pytest.approx(0.8, abs=0.05)
    assert softmax(vectors @ sure.weight.T + sure.bias).max(1).mean() > 0.9


def test_a_certain_teacher_is_as_good_as_labels() -> None:
    random = np.random.default_rng(3)
    truth = np.arange(60) % 2
    vectors = (np.eye(2)[truth] + random.standard_normal((60, 2)) * 0.3).astype(np.float32)
    labelled = fit_layer(vectors, truth, 3.0, 2)
    taught = fit_layer(vectors, truth, 3.0, 2, np.eye(2)[truth])
    for one, other in zip(labelled, taught, strict=True):
        assert other == pytest.approx(one, abs=1e-3)


def test_doubted_rows_are_tested_and_never_learned_from() -> None:
    truth = np.array([0, 1] * 10)
    texts = [f"text {row}" for row in range(20)]
    folds = split_folds(truth, 2, texts, [3, 8])
    assert sorted(row for _, test in folds for row in test.tolist()) == list(range(20))
    assert not {3, 8} & {row for train, _ in folds for row in train.tolist()}


def test_a_label_whose_other_rows_are_doubted_is_learned_from_in_each_fold() -> None:
    truth = np.array([0] * 10 + [1] * 5)
    texts = [f"text {row}" for row in range(15)]
    for train, _ in split_folds(truth, 2, texts, [11, 12, 13]):
        assert set(truth[train]) == {0, 1}
