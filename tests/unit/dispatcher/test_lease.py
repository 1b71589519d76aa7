from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.dispatcher.lease import FORGOTTEN_S, QUIET_S, RETURN_S, Lease, encode_lease, parse_lease
from edgeslm.protocol.codec import StateName, encode_state


def lease(*, is_first: bool = True) -> Lease:
    return Lease("here", is_first=is_first)


def state(name: StateName) -> bytes:
    return encode_state(name, "b")


def test_where_nobody_holds_it_it_is_free_after_a_moment() -> None:
    own = lease()
    assert own.wait_s(100.0) == math.inf, "there is no connection yet"
    own.listen(100.0)
    assert own.wait_s(100.0) == QUIET_S and own.wait_s(200.0) == 0.0


def test_it_runs_out_by_the_own_clock_after_the_last_word() -> None:
    own = lease()
    own.listen(100.0)
    for now in (100.1, 103.0, 106.0):
        own.hear(encode_lease("x", "there", 10.0), now)
    assert own.wait_s(106.0) == 10.0 and own.wait_s(116.0) == 0.0


def test_one_that_is_given_up_or_taken_away_is_free_at_once() -> None:
    for word in (encode_lease(None, "there", 10.0), b""):
        own = lease()
        own.hear(encode_lease("x", "there", 10.0), 100.0)
        own.hear(word, 101.0)
        assert own.wait_s(101.0) == 0.0


def test_that_of_the_own_run_before_is_free_unless_it_was_taken_over() -> None:
    own = lease()
    own.hear(encode_lease("old run", "here", 10.0), 100.0)
    assert own.wait_s(100.0) == 0.0
    own = lease(is_first=False)
    own.hear(encode_lease("old run", "here", 10.0), 100.0)
    assert own.wait_s(100.0) == 10.0


def test_a_last_will_shortens_the_wait_unless_it_comes_back() -> None:
    own = lease()
    own.hear(encode_lease("x", "there", 10.0), 100.0)
    own.hear_state(state("offline"), 101.0)
    assert own.wait_s(101.0) == RETURN_S
    own.hear_state(state("online"), 102.0)
    assert own.wait_s(102.0) == 8.0
    own.hear_state(state("offline"), 103.0)
    own.lose()
    assert own.wait_s(200.0) == math.inf


def test_a_broker_that_forgot_it_leaves_the_holder_its_time_to_come_back() -> None:
    own = lease()
    own.listen(100.0)
    own.hear(encode_lease("x", "there", 10.0), 100.1)
    own.lose()
    own.listen(102.0)
    assert own.wait_s(102.0) == 10.0
    own.hear(encode_lease("x", "there", 3600.0), 102.5)
    own.lose()
    own.listen(103.0)
    assert own.wait_s(103.0) == FORGOTTEN_S
    own.hear(encode_lease(None, "there", 10.0), 103.0)
    own.lose()
    own.listen(104.0)
    assert own.wait_s(104.0) == QUIET_S, "nobody holds it"


@given(st.binary(max_size=60))
def test_what_is_no_lease_is_none(payload: bytes) -> None:
    parse_lease(payload)
    own = lease()
    own.hear(payload, 1.0)
    own.hear_state(payload, 1.0)


def test_a_time_that_nobody_would_wait_is_none() -> None:
    for for_s in (0, -1, 1e9, "10", True):
        assert parse_lease(encode_lease("x", "y", for_s)) is None  # type: ignore[arg-type]
