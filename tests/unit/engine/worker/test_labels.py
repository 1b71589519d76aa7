"""The tree of labels: a distribution over them, whatever the model says of each token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.engine.worker.labels import END, Branch, make_tree

VOCABULARY = 12
LABELS = st.lists(
    st.lists(st.integers(0, VOCABULARY - 3), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple
)


def scores(tree: Branch, labels: int, seed: int) -> list[float]:
    """By a model that says something else at every branch."""
    numbers = np.random.default_rng(seed)
    found = [0.0] * labels
    waiting = [(tree, 1.0)]
    while waiting:
        branch, so_far = waiting.pop()
        shares = np.exp(branch.log_shares(numbers.normal(size=VOCABULARY), [VOCABULARY - 1, VOCABULARY - 2]))
        assert shares.sum() == pytest.approx(1)
        for place, _, below in branch.edges():
            if below.label is None:
                waiting.append((below, so_far * shares[place]))
            else:
                found[below.label] = so_far * shares[place]
    return found


@given(LABELS, st.integers(0, 99))
def test_probabilities_of_all_labels_make_one(labels: list[list[int]], seed: int) -> None:
    found = scores(make_tree(labels), len(labels), seed)
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


@given(LABELS)
def test_the_paths_are_the_labels(labels: list[list[int]]) -> None:
    found = {}
    waiting: list[tuple[Branch, tuple[int, ...]]] = [(make_tree(labels), ())]
    while waiting:
        branch, before = waiting.pop()
        for _, path, below in branch.edges():
            if below.label is None:
                waiting.append((below, before + path))
            else:
                found[below.label] = before + path
    assert [found[number] for number in range(len(labels))] == [(*label, END) for label in labels]


def test_a_label_that_begins_another_is_told_from_it_by_the_end() -> None:
    tree = make_tree([[1], [1, 2]])
    assert tree.depth() == 3
    ((_, path, below),) = tree.edges()
    assert path == (1,)
    assert list(below.children) == [END, 2]


def test_choices_need_the_tokens_that_they_are_between() -> None:
    assert make_tree([[1, 5], [2, 5], [3]]).tokens([9]) == {1, 2, 3}
    assert make_tree([[1, 5], [1, 6], [3]]).tokens([9]) == {1, 3, 5, 6}
    assert make_tree([[1], [1, 2]]).tokens([8, 9]) == {1, 2, 8, 9}


@given(LABELS)
def test_the_logits_of_these_tokens_are_enough(labels: list[list[int]]) -> None:
    ends = [VOCABULARY - 1, VOCABULARY - 2]
    tree = make_tree(labels)
    of_token = dict.fromkeys(tree.tokens(ends), 0.5)
    waiting = [tree]
    while waiting:
        branch = waiting.pop()
        assert np.exp(branch.log_shares(of_token, ends)).sum() == pytest.approx(1)
        waiting += [below for _, _, below in branch.edges() if below.children]


def test_any_end_token_ends_a_label() -> None:
    logits = np.zeros(VOCABULARY)
    tree = make_tree([[1], [1, 2]]).children[1]
    assert np.exp(tree.log_shares(logits, [7])) == pytest.approx([1 / 2, 1 / 2])
    assert np.exp(tree.log_shares(logits, [7, 8])) == pytest.approx([2 / 3, 1 / 3])
