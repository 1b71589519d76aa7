"""Likeness of two sets of vectors: cosines and rankings."""

from __future__ import annotations

import numpy as np
from edgeslm_export.evaluate.similarity import TEXTS, similarity


def _vectors(count: int = 40) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, 16)).astype(np.float32)


def test_the_same_vectors_agree_in_everything_whatever_their_length() -> None:
    vectors = _vectors()
    figures = similarity(vectors, 3 * vectors)
    assert figures["cosine_to_float"] == {"mean": 1.0, "lowest": 1.0}
    assert figures["rank_agreement"] == {"spearman": 1.0, "nearest": 1.0, "nearest_5": 1.0}


def test_a_turned_space_ranks_the_same_and_is_far() -> None:
    vectors = _vectors()
    figures = similarity(vectors, vectors[:, ::-1])
    assert figures["cosine_to_float"]["mean"] < 0.5
    assert figures["rank_agreement"]["spearman"] > 0.999


def test_one_bad_vector_shows_in_the_lowest() -> None:
    vectors = _vectors()
    damaged = vectors.copy()
    damaged[3] = -damaged[3]
    figures = similarity(vectors, damaged)
    assert figures["cosine_to_float"]["lowest"] == -1.0
    assert figures["cosine_to_float"]["mean"] == 0.95
    assert 0.5 < figures["rank_agreement"]["nearest"] < 1


def test_other_vectors_rank_otherwise() -> None:
    figures = similarity(_vectors(), np.random.default_rng(8).standard_normal((40, 16)).astype(np.float32))
    assert abs(figures["rank_agreement"]["spearman"]) < 0.2
    assert figures["rank_agreement"]["nearest_5"] < 0.4


def test_the_texts_are_different() -> None:
    assert len(set(TEXTS)) == len(TEXTS) == 48
