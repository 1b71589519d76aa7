from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.engine.calls import Overflow
from edgeslm.engine.worker.overflow import fit
from edgeslm.errors import TooLong
from edgeslm.messages import Truncated


@pytest.mark.parametrize("overflow", ["error", "head", "tail", "middle"])
def test_what_fits_stays(overflow: Overflow) -> None:
    assert fit([1, 2, 3], 3, overflow) == ([1, 2, 3], None)
    assert fit([], 0, overflow) == ([], None)


@pytest.mark.parametrize(
    ("overflow", "room", "kept"),
    [
        ("head", 2, [1, 2]),
        ("tail", 2, [4, 5]),
        ("middle", 2, [1, 5]),
        ("middle", 3, [1, 2, 5]),
        ("middle", 4, [1, 2, 4, 5]),
        ("head", 1, [1]),
        ("tail", 1, [5]),
        ("middle", 1, [1]),
    ],
)
def test_what_is_kept(overflow: Overflow, room: int, kept: list[int]) -> None:
    assert fit([1, 2, 3, 4, 5], room, overflow) == (kept, Truncated(room, 5))


def test_an_error_has_the_numbers() -> None:
    with pytest.raises(TooLong, match="has 5 tokens and there is room for 4"):
        fit([1, 2, 3, 4, 5], 4, "error")


@pytest.mark.parametrize("overflow", ["error", "head", "tail", "middle"])
@pytest.mark.parametrize("room", [0, -7])
def test_no_room_at_all(overflow: Overflow, room: int) -> None:
    with pytest.raises(TooLong, match="room for 0"):
        fit([1], room, overflow)


@given(
    st.lists(st.integers(), max_size=20),
    st.integers(1, 25),
    st.sampled_from(["head", "tail", "middle"]),
)
def test_a_cut_text_has_exactly_the_room(ids: list[int], room: int, overflow: Overflow) -> None:
    kept, truncated = fit(ids, room, overflow)
    assert len(kept) == min(len(ids), room)
    assert (truncated is None) == (len(ids) <= room)
