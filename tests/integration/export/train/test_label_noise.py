"""What the other rows say of a row's label: by vectors that know its first letter, and by its words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.train.label_noise import held_out_labels

WORDS = {"pump": ("leaks", "drips", "wet"), "heat": ("hot", "warm", "boils")}
LABELS = tuple(WORDS)


def rows_of(count: int, turned: Sequence[int] = ()) -> list[LabelledRow]:
    """The first letter says the label and so do the words; of ``turned`` the label says the other."""
    rows = []
    for number in range(count):
        label = LABELS[number % 2]
        word = WORDS[label][number // 2 % 3]
        told = LABELS[1 - number % 2] if number in turned else label
        rows.append(LabelledRow(number + 1, f"{label[0]}{number} it {word}", told))
    return rows


def test_a_wrong_label_is_unlikely_by_the_other_rows(fake_encoder: Path) -> None:
    turned = [4, 9, 20]
    places, truth, probabilities = held_out_labels(fake_encoder, rows_of(60, turned), LABELS)
    assert sorted(places) == list(range(60))
    assert probabilities.shape == (60, 2)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    likely = probabilities[np.arange(60), truth]
    assert {int(places[row]) for row in np.flatnonzero(likely < 0.5)} == set(turned)


def test_words_alone_and_vectors_alone_are_less_sure(fake_encoder: Path) -> None:
    """A row whose words say one thing and whose vector another is no clear case."""
    rows = [*rows_of(60), LabelledRow(61, "p61 it boils", "heat")]
    places, truth, probabilities = held_out_labels(fake_encoder, rows, LABELS)
    of_row = int(np.flatnonzero(places == 60)[0])
    others = np.delete(probabilities[np.arange(61), truth], of_row)
    assert probabilities[of_row, truth[of_row]] < others.min()


def test_a_label_with_two_rows_is_judged_too(fake_encoder: Path) -> None:
    rows = [*rows_of(40), LabelledRow(41, "x1 odd", "odd"), LabelledRow(42, "x2 odd", "odd")]
    places, _, probabilities = held_out_labels(fake_encoder, rows, (*LABELS, "odd"))
    assert len(places) == len(probabilities) >= 40
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("text", ["!!", "机器坏了", "a"])
def test_texts_without_words_are_judged(fake_encoder: Path, text: str) -> None:
    rows = [*rows_of(40), LabelledRow(41, text, "heat")]
    assert len(held_out_labels(fake_encoder, rows, LABELS)[0]) == 41
