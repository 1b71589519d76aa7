"""Vectors in blocks: what comes back, how exact it is, what is empty."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from operator import mul

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.vectors import SLOTS, clear, cosines, encode, write

DIMENSION = 8
VECTORS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=DIMENSION, max_size=DIMENSION)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(make_db()) as made:
        yield made


def make_db() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE vectors (block INTEGER PRIMARY KEY, slots BLOB NOT NULL)")
    return db


def put(db: sqlite3.Connection, vectors: dict[int, list[float]]) -> None:
    write(db, dict(zip(vectors, encode(list(vectors.values())), strict=True)))


def axis(place: int) -> list[float]:
    return [float(place == other) for other in range(DIMENSION)]


def test_a_vector_is_found_in_its_slot_and_the_others_are_empty(db: sqlite3.Connection) -> None:
    put(db, {3: axis(0), SLOTS: axis(1), 3 * SLOTS + 5: axis(0)})
    found = cosines(db, DIMENSION, axis(0))
    assert len(found) == 4 * SLOTS
    assert {slot: value for slot, value in enumerate(found.tolist()) if math.isfinite(value)} == {
        3: pytest.approx(1.0),
        SLOTS: pytest.approx(0.0),
        3 * SLOTS + 5: pytest.approx(1.0),
    }


def test_a_slot_that_was_cleared_or_written_again_has_nothing_of_before(db: sqlite3.Connection) -> None:
    put(db, {0: axis(0), 1: axis(0)})
    clear(db, DIMENSION, [0])
    put(db, {1: axis(1)})
    assert cosines(db, DIMENSION, axis(0))[:2].tolist() == [-math.inf, pytest.approx(0.0)]


def test_without_vectors_nothing_is_near(db: sqlite3.Connection) -> None:
    assert len(cosines(db, DIMENSION, axis(0))) == 0


@given(st.lists(VECTORS, min_size=1, max_size=20), VECTORS)
def test_cosines_are_those_of_the_vectors(vectors: list[list[float]], query: list[float]) -> None:
    with closing(make_db()) as db:
        put(db, dict(enumerate(vectors)))
        found = cosines(db, DIMENSION, query)
    for vector, cosine in zip(vectors, found.tolist(), strict=False):
        lengths = math.hypot(*vector) * math.hypot(*query)
        if math.hypot(*vector) < 1e-3:
            assert cosine == -math.inf or abs(cosine) <= 1.001
        elif math.hypot(*query) > 1e-3:
            assert cosine == pytest.approx(sum(map(mul, vector, query)) / lengths, abs=0.02)


def test_int8_ranks_as_floats_do(db: sqlite3.Connection) -> None:
    """Of random vectors in 384 dimensions, which lie closer together than those of texts."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((2000, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    put(db, dict(enumerate(vectors.tolist())))
    agreed = 0
    for query in rng.standard_normal((20, 384)):
        exact = np.argsort(-(vectors @ query))[:10]
        found = np.argsort(-cosines(db, 384, query.tolist()))[:10]
        agreed += len({*exact.tolist()} & {*found.tolist()})
    assert agreed / 200 > 0.95


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    with pytest.raises(KnowledgeError, match="aren't finite"):
        encode([[wrong, 1.0]])


def test_a_vector_of_zeros_is_none(db: sqlite3.Connection) -> None:
    put(db, {0: [0.0] * DIMENSION})
    assert cosines(db, DIMENSION, axis(0))[0] == -math.inf
