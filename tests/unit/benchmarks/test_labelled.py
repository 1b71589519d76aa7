"""benchmarks/lib/labelled.py: what is drawn to learn from, and what is left to test with."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def labelled() -> ModuleType:
    return load_scripts("labelled")["labelled"]


@given(wanted=st.integers(6, 99), seed=st.integers(0, 9))
def test_a_draw_has_the_labels_in_their_proportions(labelled: ModuleType, wanted: int, seed: int) -> None:
    rows = [{"text": str(n), "label": "abc"[(n % 10 > 6) + (n % 10 > 8)]} for n in range(100)]
    drawn, rest = labelled.Labelled("x", rows, ()).draw(wanted, seed)
    assert len(drawn) == wanted and len(rest) == 100 - wanted
    assert not {row["text"] for row in drawn} & {row["text"] for row in rest}
    counts = Counter(row["label"] for row in drawn)
    assert all(
        abs(counts[label] - wanted * share) <= 3 for label, share in zip("abc", (0.7, 0.2, 0.1), strict=True)
    )
    assert labelled.Labelled("x", rows, ()).draw(wanted, seed)[0] == drawn


def test_a_repeat_of_what_was_drawn_is_no_test(labelled: ModuleType) -> None:
    rows = [{"text": f"Win {n // 2}", "label": "ab"[n % 4 // 2]} for n in range(80)]
    drawn, rest = labelled.Labelled("x", rows, ()).draw(20, 1)
    assert not {row["text"] for row in drawn} & {row["text"] for row in rest}


def test_a_set_with_a_test_of_its_own_keeps_it(labelled: ModuleType) -> None:
    rows, test = [{"text": str(n), "label": "ab"[n % 2]} for n in range(20)], [{"text": "t", "label": "a"}]
    assert labelled.Labelled("x", rows, test).draw(None, 0) == (rows, test)
    assert labelled.Labelled("x", rows, test).draw(6, 0)[1] == test
    with pytest.raises(ValueError, match="3 rows are too few for 2 labels"):
        labelled.Labelled("x", rows, test).draw(3, 0)
