"""When a request is sent again and what ends it, with a clock and a connection made of plain values."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.client.pending_request import (
    FIRST_INTERVAL_S,
    LONGEST_INTERVAL_S,
    Acknowledged,
    Answered,
    Event,
    Failed,
    Lost,
    NodeUp,
    PendingMessage,
    PendingRequest,
    Piece,
    Ready,
    Room,
)
from edgeslm.errors import BrokerError, ProtocolError, TimedOut
from edgeslm.messages import Chunk, ErrorBody, Result
from edgeslm.mqtt.diagnostics import Problem
from edgeslm.protocol.codec import encode_chunk, encode_result
from edgeslm.protocol.delivery import OutgoingMessage

LETTER = OutgoingMessage("hall/req/say", b"{}", response_topic="hall/res/say/app", correlation=b"7f")
OK = Answered(encode_result(Result("7f", "say", "ok", {"text": "yes"})))
ACCEPTED = Acknowledged(0, "Success")
NOBODY = Acknowledged(0x10, "No matching subscribers")
GONE = Problem("Nothing listens at broker.local.")


def busy(retry_after_ms: int | None = 1000) -> Answered:
    error = ErrorBody("busy", "256 requests are waiting", retry_after_ms)
    return Answered(encode_result(Result("7f", "say", "error", error=error)))


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 1.0)


class Bench:
    """A pending request and its clock. ``generation`` is the connection, None without one; ``sent`` are
    times."""

    def __init__(self, timeout_s: float = 600.0, interval_s: float = FIRST_INTERVAL_S) -> None:
        self.now = 1000.0
        self.generation: int | None = None
        self.node_state: str | None = "online"
        self.sent: list[float] = []
        self.expiries_s: list[int | None] = []
        self.cancelled: list[OutgoingMessage] = []
        self.pending = PendingRequest(LETTER, self, node="hall", timeout_s=timeout_s, interval_s=interval_s)
        self.pending.begin(self.now)

    def send(self, outgoing: OutgoingMessage) -> int | None:
        if outgoing.topic == "hall/cancel":
            self.cancelled.append(outgoing)
            return self.generation
        assert replace(outgoing, expiry_s=None) == LETTER
        if self.generation is None:
            return None
        self.sent.append(self.now - 1000.0)
        self.expiries_s.append(outgoing.expiry_s)
        return self.generation

    def tell(self, *events: Event) -> Result | None:
        result = None
        for event in events:
            assert result is None
            result = self.pending.advance(event, self.now)
        return result

    def connect(self, generation: int) -> None:
        self.generation = generation
        self.tell(Ready(generation))

    def lose(self, problem: Problem = GONE) -> None:
        generation, self.generation = self.generation, None
        self.tell(Lost(generation or 0, problem))

    def run(self, seconds: float) -> None:
        """Lets time pass; nothing happens but what the pending request does by itself."""
        end = self.now + seconds
        while self.now + (wait_s := self.pending.wait_s(self.now)) <= end:
            self.now += wait_s
            self.pending.advance(None, self.now)
        self.now = end


def accepted(timeout_s: float = 600.0, interval_s: float = FIRST_INTERVAL_S) -> Bench:
    """Sent over the first connection and acknowledged."""
    bench = Bench(timeout_s, interval_s)
    bench.connect(1)
    bench.tell(ACCEPTED)
    return bench


def test_it_is_sent_once_when_the_result_comes() -> None:
    bench = accepted()
    result = bench.tell(OK)
    assert result is not None and result.result == {"text": "yes"}
    assert (bench.sent, bench.expiries_s) == ([0.0], [600])


def test_the_result_may_come_before_the_acknowledgement() -> None:
    bench = Bench()
    bench.connect(1)
    assert bench.tell(OK) is not None


def test_intervals_double_up_to_a_limit() -> None:
    bench = accepted(interval_s=4.0)
    gaps = []
    for _ in range(7):
        wait_s = bench.pending.wait_s(bench.now)
        gaps.append(wait_s)
        bench.run(wait_s)
        bench.tell(ACCEPTED)
    assert gaps == [4, 8, 16, 30, 30, 30, 30]
    assert len(bench.sent) == 8
    assert bench.expiries_s == [600, 596, 588, 572, 542, 512, 482, 452]


def test_an_interval_longer_than_the_limit_stays_as_it_is() -> None:
    bench = accepted(interval_s=100.0)
    bench.run(110)
    bench.tell(ACCEPTED)
    bench.run(100)
    assert bench.sent == [0, 100, 200]
    never = accepted(interval_s=math.inf)
    never.run(599)
    assert never.sent == [0]


def test_intervals_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = set()
    for _ in range(20):
        pending = PendingRequest(LETTER, FakeSession(), node="hall", timeout_s=600.0)
        pending.begin(0.0)
        pending.advance(None, 0.0)
        waits.add(pending.wait_s(0.0))
    assert len(waits) > 10
    assert all(FIRST_INTERVAL_S * 0.75 <= wait <= FIRST_INTERVAL_S * 1.25 for wait in waits)


@pytest.mark.parametrize("was_accepted", [True, False])
def test_after_a_reconnect_it_is_sent_at_once_and_the_interval_starts_anew(was_accepted: bool) -> None:
    bench = Bench()
    bench.connect(1)
    if was_accepted:
        bench.tell(ACCEPTED)
        bench.run(20)  # sent again at 5 s
    first = len(bench.sent)
    bench.lose()
    bench.run(60)
    assert len(bench.sent) == first
    bench.connect(2)
    assert len(bench.sent) == first + 1 and bench.sent[-1] == bench.now - 1000.0
    bench.tell(ACCEPTED)
    assert bench.pending.wait_s(bench.now) == FIRST_INTERVAL_S


def test_each_connection_gets_it_once() -> None:
    bench = accepted()
    bench.tell(Ready(1), Ready(1))
    assert len(bench.sent) == 1


def test_a_late_word_of_an_older_connection_changes_nothing() -> None:
    bench = Bench()
    bench.generation = 2
    bench.tell(Ready(1))  # by now there is another connection, over which it goes
    bench.tell(Lost(1, GONE), Ready(2))
    assert len(bench.sent) == 1


def test_no_second_copy_while_the_broker_has_not_taken_the_first() -> None:
    bench = Bench()
    bench.connect(1)
    bench.run(100)
    assert len(bench.sent) == 1
    bench.tell(ACCEPTED)
    bench.run(LONGEST_INTERVAL_S)
    assert len(bench.sent) == 2


def test_it_waits_for_room() -> None:
    bench = Bench()
    bench.tell(Ready(1))
    assert bench.sent == []
    bench.run(1)
    bench.generation = 1
    bench.tell(Room())
    assert bench.sent == [1]


def test_busy_is_asked_again_when_the_node_says_so() -> None:
    bench = accepted()
    assert bench.tell(busy(7000)) is None
    bench.run(6.9)
    assert bench.sent == [0]
    bench.run(0.1)
    assert bench.sent == [0, 7]
    assert bench.tell(ACCEPTED, OK) is not None


def test_busy_without_a_time_waits_an_interval() -> None:
    bench = accepted(interval_s=5.0)
    bench.tell(busy(None))
    bench.run(10)
    assert bench.sent == [0, 10]  # the interval had doubled when it was sent


def test_busy_at_once_is_no_reason_to_spin() -> None:
    bench = accepted()
    bench.tell(busy(0))
    bench.run(0.05)
    assert len(bench.sent) == 1


def test_busy_is_the_result_if_too_little_time_is_left() -> None:
    bench = accepted(timeout_s=10.0)
    result = bench.tell(busy(11_000))
    assert result is not None and result.error is not None and result.error.code == "busy"


def test_while_it_waits_for_a_busy_node_nothing_else_hurries_it() -> None:
    bench = accepted()
    bench.tell(busy(20_000))
    bench.lose()
    bench.run(8)
    bench.connect(2)
    bench.tell(NodeUp(), Room(), busy(1))
    bench.run(11.9)
    assert len(bench.sent) == 1
    bench.run(0.1)
    assert len(bench.sent) == 2


def test_other_error_results_are_results() -> None:
    error = ErrorBody("model_unavailable", "the engine is being stopped")
    result = accepted().tell(Answered(encode_result(Result("7f", "say", "error", error=error))))
    assert result is not None and result.error == error


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x87, 0x90, 0x99])
def test_a_refusal_ends_it(reason: int) -> None:
    bench = Bench()
    bench.connect(1)
    with pytest.raises(BrokerError, match=r"refuses the request: A reason\.$"):
        bench.tell(Acknowledged(reason, "A reason"))


def test_a_full_broker_is_asked_again() -> None:
    bench = Bench()
    bench.connect(1)
    bench.tell(Acknowledged(0x97, "Quota exceeded"))
    bench.run(FIRST_INTERVAL_S)
    assert bench.sent == [0, 5]
    assert bench.tell(ACCEPTED, OK) is not None


@pytest.mark.parametrize("state", [None, "stopped"])
def test_nobody_listens_is_said_at_once_if_no_node_was_there(state: str | None) -> None:
    bench = Bench()
    bench.node_state = state
    bench.connect(1)
    with pytest.raises(BrokerError, match="No node 'hall' listens"):
        bench.tell(NOBODY)


def test_a_broker_that_has_forgotten_the_node_is_asked_again_soon() -> None:
    bench = accepted()
    bench.node_state = None
    bench.lose()
    bench.connect(2)
    bench.tell(NOBODY)
    for _ in range(3):
        bench.run(2)
        bench.tell(NOBODY)
    assert bench.sent == [0, 0, 2, 4, 6]
    bench.run(0.5)
    bench.tell(NodeUp())
    assert bench.sent[-1] == 6.5
    assert bench.tell(ACCEPTED, OK) is not None


@pytest.mark.parametrize("state", ["starting", "online", "draining", "offline"])
def test_a_node_that_was_seen_may_come_back(state: str) -> None:
    bench = Bench()
    bench.node_state = state
    bench.connect(1)
    bench.tell(NOBODY)
    bench.tell(NodeUp())
    assert len(bench.sent) == 2


def test_a_node_that_comes_back_does_not_hurry_what_it_has_got() -> None:
    bench = accepted()
    bench.tell(NodeUp())
    assert len(bench.sent) == 1


def test_pieces_come_in_order_and_none_twice_when_the_request_is_run_anew() -> None:
    bench = accepted()
    for seq in (0, 1, 0, 1, 3, 2, 4):
        bench.tell(Piece(encode_chunk(Chunk("7f", seq, f"word {seq}"))))
    assert [chunk.seq for chunk in bench.pending.chunks] == [0, 1, 3, 4]


def test_pieces_show_that_the_node_is_at_it() -> None:
    bench = accepted(interval_s=5.0)
    for seq in range(10):
        bench.run(4)
        bench.tell(Piece(encode_chunk(Chunk("7f", seq, "word"))))
    assert len(bench.sent) == 1


def test_what_is_no_result_or_no_piece_raises() -> None:
    with pytest.raises(ProtocolError, match="isn't a result"):
        accepted().tell(Answered(b"what"))
    with pytest.raises(ProtocolError, match="isn't a chunk"):
        accepted().tell(Piece(b"what"))


def test_a_closed_client_ends_it() -> None:
    with pytest.raises(BrokerError, match="closed"):
        accepted().tell(Failed(BrokerError("closed")))


def test_a_connection_that_never_comes_again_ends_it() -> None:
    with pytest.raises(BrokerError, match="no MQTT 5"):
        accepted().tell(Lost(1, Problem("no MQTT 5", fatal=True)))


class TestTimeOut:
    def why(self, bench: Bench) -> str:
        with pytest.raises(TimedOut) as raised:
            bench.run(1000)
        assert bench.now == 1060.0
        return str(raised.value)

    def test_the_node_is_silent(self) -> None:
        bench = accepted(60, interval_s=100)
        assert self.why(bench) == "No result came within 60 s; the node 'hall' is online."

    def test_it_was_repeated_to_a_busy_node_that_says_nothing_of_itself(self) -> None:
        bench = accepted(60, interval_s=100)
        bench.node_state = None
        bench.tell(busy())
        bench.run(2)
        bench.tell(ACCEPTED)
        assert self.why(bench) == (
            "No result came within 60 s, though the request was sent 2 times; the node 'hall' has never been "
            "online here and was busy."
        )

    def test_the_connection_is_gone(self) -> None:
        bench = accepted(60)
        bench.lose()
        assert self.why(bench) == (
            "No result came within 60 s: there is no connection. Nothing listens at broker.local."
        )

    def test_the_broker_is_silent(self) -> None:
        bench = Bench(60)
        bench.connect(1)
        assert self.why(bench) == "No result came within 60 s: the broker doesn't answer any more."

    def test_the_node_stays_away(self) -> None:
        bench = accepted(60, interval_s=100)
        bench.lose()
        bench.connect(2)
        bench.tell(NOBODY)
        bench.generation = None
        assert self.why(bench) == (
            "No result came within 60 s: the node 'hall' hasn't come back to this broker."
        )

    def test_a_result_in_the_last_moment_counts(self) -> None:
        bench = accepted(60, interval_s=100)
        bench.now = 1060.0
        assert bench.tell(OK) is not None


EVENTS = st.sampled_from(
    [
        *(ACCEPTED, NOBODY, Acknowledged(0x97, "Quota exceeded"), Room(), NodeUp()),
        *(busy(), busy(0), busy(None), busy(30_000), Ready(1), Ready(2), Lost(1, GONE), Lost(2, GONE)),
        Piece(encode_chunk(Chunk("7f", 1, "word"))),
    ]
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 20), st.sampled_from([None, 1, 2]))))
def test_whatever_happens_it_neither_stops_nor_spins(
    steps: list[tuple[Event, float, int | None]],
) -> None:
    """It goes on until its time is over, and then a connection and a willing node still bring the result."""
    bench = Bench(timeout_s=math.inf)
    for event, seconds, generation in steps:
        bench.generation = generation
        bench.tell(event)
        before = len(bench.sent)
        bench.run(seconds)
        assert len(bench.sent) - before <= 1 + seconds / 0.1
    bench.tell(Lost(1, GONE), Lost(2, GONE))
    bench.generation = 3
    bench.tell(Ready(3))
    bench.run(60)
    assert bench.sent and bench.sent[-1] > bench.now - 1000.0 - 61
    assert bench.tell(ACCEPTED, OK) is not None


def test_who_gives_up_has_it_cancelled_as_long_as_it_may_reach_the_node() -> None:
    bench = accepted(timeout_s=100.0)
    bench.run(40)
    bench.pending.abandon("hall/cancel", bench.now)
    assert bench.cancelled == [
        OutgoingMessage("hall/cancel", b"", correlation=LETTER.correlation, expiry_s=90)
    ]


def test_what_was_never_sent_is_not_cancelled() -> None:
    bench = Bench()
    bench.pending.abandon("hall/cancel", bench.now)
    assert bench.cancelled == []


# -- notes -----------------------------------------------------------------------------------------


class FakeSession:
    """Takes notes while ``generation`` is a number."""

    def __init__(self) -> None:
        self.generation: int | None = 1
        self.node_state: str | None = None
        self.sent: list[int | None] = []

    def send(self, outgoing: OutgoingMessage) -> int | None:
        if self.generation is not None:
            self.sent.append(outgoing.expiry_s)
        return self.generation


def note(session: FakeSession) -> PendingMessage:
    message = OutgoingMessage("hall/feedback", b"{}", correlation=b"7f")
    return PendingMessage(message, session, node="hall", now=0.0, timeout_s=60.0)


def test_a_note_is_done_when_the_broker_has_it() -> None:
    session = FakeSession()
    told = note(session)
    assert told.advance(None, 0.0) is None and session.sent == []
    assert told.advance(Ready(1), 1.0) is None and session.sent == [None]
    assert told.advance(ACCEPTED, 2.0) is True


def test_a_note_goes_again_on_a_new_connection_when_there_is_room_and_after_a_quota() -> None:
    session = FakeSession()
    told = note(session)
    told.advance(Ready(1), 1.0)
    told.advance(Lost(1, GONE), 2.0)
    told.advance(Ready(2), 3.0)
    told.advance(Acknowledged(0x97, "Quota exceeded"), 4.0)
    assert len(session.sent) == 2
    told.advance(None, 4.0 + told.wait_s(4.0))
    session.generation = None
    told.advance(Ready(3), 8.0)
    session.generation = 3
    told.advance(Room(), 9.0)
    assert len(session.sent) == 4


@pytest.mark.parametrize(
    ("event", "error", "says"),
    [
        (NOBODY, BrokerError, "No node 'hall' listens"),
        (Acknowledged(0x87, "Not authorized"), BrokerError, "refuses the message: Not authorized"),
        (Failed(BrokerError("closed")), BrokerError, "closed"),
        (Lost(1, Problem("too old", fatal=True)), BrokerError, "too old"),
    ],
)
def test_a_note_that_can_t_be_delivered_says_why(event: Event, error: type[Exception], says: str) -> None:
    told = note(FakeSession())
    told.advance(Ready(1), 1.0)
    with pytest.raises(error, match=says):
        told.advance(event, 2.0)


def test_a_note_has_a_time_out() -> None:
    told = note(FakeSession())
    with pytest.raises(TimedOut, match="within 60 s"):
        told.advance(Ready(1), 61.0)
