from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.dispatcher.policy import Candidate, choose


def node(name: str, ready_s: float, service_s: float | None, has_room: bool = True) -> Candidate:
    return Candidate(name, ready_s, service_s, has_room)


def test_the_one_that_is_done_first_gets_it() -> None:
    fast, slow = node("fast", 0.1, 0.1), node("slow", 0.0, 0.4)
    assert choose(1, [slow, fast]) == (0, fast)


def test_who_is_not_known_is_tried_at_once() -> None:
    fast, new = node("fast", 0.0, 0.1), node("new", 0.0, None)
    assert choose(1, [fast, new]) == (0, new)


def test_one_request_waits_for_a_fast_node_where_a_slow_one_would_take_longer() -> None:
    full, slow = node("fast", 0.2, 0.1, has_room=False), node("slow", 0.0, 0.4)
    assert choose(1, [full, slow]) is None


def test_behind_a_long_queue_the_slow_node_is_worth_it_for_the_one_that_would_wait_longest() -> None:
    full, slow = node("fast", 0.2, 0.1, has_room=False), node("slow", 0.0, 0.4)
    assert choose(2, [full, slow]) == (1, slow), "by 0.4 s the fast one has done just one more"


def test_without_room_or_requests_there_is_no_choice() -> None:
    assert choose(3, [node("a", 0.0, 0.1, has_room=False)]) is None
    assert choose(0, [node("a", 0.0, 0.1)]) is None
    assert choose(1, []) is None


@given(
    st.integers(1, 50),
    st.lists(
        st.tuples(st.floats(0, 5), st.none() | st.floats(0.001, 5), st.booleans()), min_size=1, max_size=8
    ),
)
def test_a_choice_is_among_those_with_room_and_the_requests_that_wait(
    waiting: int, nodes: list[tuple[float, float | None, bool]]
) -> None:
    candidates = [node(str(number), *one) for number, one in enumerate(nodes)]
    choice = choose(waiting, candidates)
    if choice is not None:
        position, found = choice
        assert 0 <= position < waiting and found.has_room
    elif all(one.has_room for one in candidates):
        raise AssertionError("all have room and somebody waits")
