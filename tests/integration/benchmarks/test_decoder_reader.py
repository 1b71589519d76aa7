"""Pairs of passages for a decoder that judges them, and the measure."""

from __future__ import annotations

import pytest

from benchmarks.lib.decoder_reader import auc, pairs_of
from edgeslm.knowledge.index.queries import Found


def passage(source: str, text: str) -> Found:
    return Found(text, source, "", text, 0, len(text), 0.0, 0.0, None, 0.0, 0.0)


def test_a_pair_is_of_one_document() -> None:
    asked = [("q1", passage("a", "one")), ("q2", passage("b", "two")), ("q3", passage("a", "three"))]
    assert pairs_of(asked) == [("q1", "one", "three"), ("q3", "three", "one")]


def test_equal_probabilities_count_half() -> None:
    assert auc([0.9, 0.5], [0.5, 0.1]) == pytest.approx(3.5 / 4)
