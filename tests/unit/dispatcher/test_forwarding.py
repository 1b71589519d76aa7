from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeslm.dispatcher.forwarding import FORGET_EVERY_S, SETTLE_S, SILENT_S, Forwarder
from edgeslm.dispatcher.members import FORGET_S, Members
from edgeslm.dispatcher.queue import ForwardedRequest
from edgeslm.dispatcher.throughput import FIRST_PATIENCE_S
from edgeslm.errors import InternalError
from edgeslm.messages import Chunk, ErrorBody, Request, Result
from edgeslm.protocol.codec import Cancel
from tests.support.dispatcher.fake_members import info, state
from tests.support.fakes import FakeClock


class Pool:
    """A forwarder with nodes that are told here; ``forwarded`` and ``withdrawn``: pairs of ids and nodes."""

    def __init__(self, *nodes: str, window: int = 4) -> None:
        self.clock = FakeClock()
        self.forwarded: list[tuple[str, str]] = []
        self.withdrawn: list[tuple[str, str]] = []
        self.ends: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.orders: dict[str, ForwardedRequest] = {}
        self.forwarder = Forwarder(
            self,
            Members("triage", None),
            window=window,
            clock=self.clock,
        )
        for node in nodes:
            self.join(node)

    def join(self, node: str) -> None:
        self.forwarder.hear(node, "info", info())
        self.say(node, "online")

    def say(self, node: str, what: str) -> None:
        self.forwarder.hear(node, "state", state(what))

    def forward(self, order: ForwardedRequest, node: str) -> None:
        self.forwarded.append((order.request.id, node))

    def withdraw(self, order: ForwardedRequest, node: str) -> None:
        self.withdrawn.append((order.request.id, node))

    def ended(self, order: ForwardedRequest) -> None:
        self.ends.append(order.request.id)

    def ask(
        self, id: str, *, task: str = "label", not_before: float = 0.0, **fields: Any
    ) -> ForwardedRequest:
        request = Request(task, "text", id, "a/res", True, received_at=self.clock.now, **fields)
        order = self.orders[id] = ForwardedRequest(
            request,
            b"text",
            id.encode().ljust(16),
            self.loop.create_future(),
            give_up_at=self.clock.now + 120,
            not_before=not_before,
        )
        self.forwarder.submit(order)
        return order

    def answer(
        self, node: str, id: str, code: str | None = None, *, ms: float = 100, retry_ms: int | None = None
    ) -> None:
        order = self.orders[id]
        error = ErrorBody(code, "a sentence", retry_ms) if code else None
        result = Result(
            "theirs", order.request.task, "error" if error else "ok", None if error else {}, error,
            timings_ms={"total": ms, "queue": 0.0},
        )  # fmt: skip
        self.forwarder.answer(node, order.correlation, result, b"{}")

    def code(self, id: str) -> str | None:
        """Of the answer: ``ok``, an error's, or None if there is none yet."""
        future = self.orders[id].answered
        if not future.done():
            return None
        result = future.result()[0]
        return result.error.code if result.error is not None else result.status

    def learn(self, **ms: float) -> None:
        """Has each node do one request of its own time."""
        for number in range(len(ms)):
            self.ask(f"learn {number}")
        for id, node in list(self.forwarded):
            self.clock.now += ms[node] / 1000
            self.answer(node, id, ms=ms[node])
        self.forwarded.clear()

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            self.forwarder.tick()


@pytest.fixture
def make() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(*nodes: str, window: int = 4) -> Pool:
        made.append(Pool(*nodes, window=window))
        return made[-1]

    yield make
    for pool in made:
        pool.loop.close()


Make = Callable[..., Pool]


def test_each_node_is_tried_with_one_request_before_its_speed_is_known(make: Make) -> None:
    pool = make("a", "b")
    for id in "1234":
        pool.ask(id)
    assert sorted(node for _, node in pool.forwarded) == ["a", "b"]
    assert len(pool.forwarder.waiting) == 2


def test_the_queue_waits_here_and_not_on_a_slow_node(make: Make) -> None:
    pool = make("fast", "slow")
    pool.learn(fast=100, slow=400)
    for number in range(20):
        pool.ask(str(number))
    nodes = [node for _, node in pool.forwarded]
    assert nodes.count("fast") == 2 and nodes.count("slow") == 2
    assert ("0", "fast") in pool.forwarded, "the first goes where it is done first"
    assert [id for id, node in pool.forwarded if node == "slow"] > ["1"], "the slow one gets a later one"


def test_a_node_that_is_late_does_not_pass_for_one_that_rests(make: Make) -> None:
    pool = make("a", "b")
    pool.learn(a=100, b=101)
    pool.ask("long")
    pool.wait(0.2)  # it takes longer than usual
    pool.ask("next")
    assert pool.forwarded == [("long", "a"), ("next", "b")]


def test_a_higher_priority_goes_first_and_then_who_expires_first(make: Make) -> None:
    pool = make("a", window=1)
    pool.ask("running")
    pool.ask("low", priority=1)
    pool.ask("late")
    pool.ask("soon", expires_at=1e9)
    pool.ask("high", priority=9)
    order = []
    for _ in range(4):
        id, node = pool.forwarded[-1]
        pool.answer(node, id)
        order.append(pool.forwarded[-1][0])
    assert order == ["high", "soon", "late", "low"]


def test_requests_of_a_node_that_ends_go_elsewhere_and_the_first_answer_wins(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1")
    ((_, first),) = pool.forwarded
    other = {"a": "b", "b": "a"}[first]
    pool.say(first, "offline")
    assert pool.forwarded[-1] == ("1", other) and pool.ends == ["1"]
    pool.answer(first, "1")  # it was done before the node ended, and came late
    assert pool.code("1") == "ok"
    assert pool.withdrawn == [("1", other)]
    pool.answer(other, "1")
    assert pool.forwarder.counts["late"] == 1


def test_a_node_that_stops_or_drains_gets_nothing_and_is_not_held_against_requests(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1")
    ((_, first),) = pool.forwarded
    pool.say(first, "draining")
    assert len(pool.forwarded) == 1, "it answers what it has begun"
    pool.say(first, "stopped")
    assert len(pool.forwarded) == 2 and pool.ends == []


def test_a_request_that_has_ended_three_nodes_is_poisoned(make: Make) -> None:
    pool = make("a", "b", "c", "d")
    pool.ask("1")
    for _ in range(3):
        pool.say(pool.forwarded[-1][1], "offline")
    assert pool.code("1") == "poisoned" and pool.ends == ["1"] * 3
    assert len(pool.forwarded) == 3


def test_a_node_that_does_not_answer_is_passed_over_until_it_does(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1")
    ((_, stuck),) = pool.forwarded
    other = {"a": "b", "b": "a"}[stuck]
    pool.wait(FIRST_PATIENCE_S + 0.2)
    assert pool.forwarded[-1] == ("1", other) and pool.forwarder.is_silent(stuck)
    pool.answer(other, "1")
    assert pool.code("1") == "ok" and pool.withdrawn == [("1", stuck)]
    for id in "234":
        pool.ask(id)
    assert all(node == other for _, node in pool.forwarded[1:])
    pool.wait(SILENT_S)
    assert stuck in [node for _, node in pool.forwarded[3:]], "one more request, to see"
    pool.answer(stuck, next(id for id, node in pool.forwarded[1:] if node == stuck))
    assert not pool.forwarder.is_silent(stuck)


def test_a_lone_node_is_asked_again_since_its_answer_may_be_lost(make: Make) -> None:
    pool = make("a")
    pool.ask("1")
    pool.wait(FIRST_PATIENCE_S + 0.2)
    assert pool.forwarded == [("1", "a")] * 2 and pool.forwarder.load("a") == 1
    pool.forwarder.repeat()
    assert pool.forwarded == [("1", "a")] * 3
    pool.answer("a", "1")
    assert pool.code("1") == "ok"


def test_a_stream_that_goes_on_is_not_stuck(make: Make) -> None:
    pool = make("a", "b")
    order = pool.ask("1", options={"stream": True})
    ((_, node),) = pool.forwarded
    for seq in range(4):
        pool.wait(FIRST_PATIENCE_S / 2)
        assert pool.forwarder.piece(node, order.correlation, Chunk("theirs", seq, "x")) is order.request
    assert len(pool.forwarded) == 1
    assert pool.forwarder.piece(node, order.correlation, Chunk("theirs", 1, "x")) is None, "it came before"


def test_a_busy_node_is_asked_later_or_another_at_once(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1")
    ((_, busy),) = pool.forwarded
    pool.answer(busy, "1", "busy", retry_ms=1000)
    other = {"a": "b", "b": "a"}[busy]
    assert pool.forwarded[-1] == ("1", other) and pool.code("1") is None
    pool.answer(other, "1", "busy", retry_ms=3_600_000)
    assert len(pool.forwarded) == 2
    pool.wait(1.2)
    assert pool.forwarded[-1] == ("1", busy)


@pytest.mark.parametrize("code", ["internal", "no_memory", "model_unavailable", "unknown_task"])
def test_what_another_node_may_do_is_asked_there_and_the_last_refusal_stands(make: Make, code: str) -> None:
    pool = make("a", "b")
    pool.ask("1")
    pool.answer(pool.forwarded[-1][1], "1", code)
    assert len({node for _, node in pool.forwarded}) == 2 and pool.code("1") is None
    pool.answer(pool.forwarded[-1][1], "1", code)
    assert pool.code("1") == code


@pytest.mark.parametrize("code", ["invalid_request", "too_long", "poisoned", "expired", "timeout"])
def test_what_no_node_would_do_is_the_answer(make: Make, code: str) -> None:
    pool = make("a", "b")
    pool.ask("1")
    pool.answer(pool.forwarded[-1][1], "1", code)
    assert pool.code("1") == code


def test_a_task_that_nobody_offers_is_unknown_once_all_have_spoken(make: Make) -> None:
    pool = make("a")
    pool.ask("1", task="nothing")
    pool.wait(SETTLE_S - 1)
    assert pool.code("1") is None
    pool.wait(1.5)
    assert pool.code("1") == "unknown_task"


def test_without_a_node_a_request_waits_for_one_until_its_time_is_over(make: Make) -> None:
    pool = make()
    pool.ask("1")
    pool.ask("2", expires_at=pool.clock.now + 3)
    pool.wait(5)
    assert (pool.code("1"), pool.code("2")) == (None, "expired")
    pool.join("a")
    assert pool.forwarded == [("1", "a")]
    pool.say("a", "stopped")
    pool.wait(120)
    assert pool.code("1") == "timeout"


def test_what_no_node_is_there_for_is_refused_when_others_wait_behind_it(make: Make) -> None:
    pool = make("a", "b")
    pool.forwarder.hear("b", "info", info(pool={"name": "triage", "tasks": ["other"], "by": "dispatcher"}))
    pool.say("b", "offline")
    pool.ask("stranded", task="other")
    for id in "123":
        pool.ask(id)
    pool.forwarder.refuse_stranded()
    assert pool.code("stranded") is None, "its node may only not have been heard yet"
    pool.wait(SETTLE_S + 0.5)
    pool.forwarder.refuse_stranded()
    assert pool.code("stranded") == "busy"
    assert [pool.code(id) for id in "123"] == [None] * 3, "these have a node"


def test_a_request_that_waits_is_cancelled_here_and_one_that_is_forwarded_there(make: Make) -> None:
    pool = make("a", window=1)
    for id in "12":
        pool.ask(id)
    pool.forwarder.cancel(Cancel("2"))
    assert pool.code("2") == "cancelled" and pool.withdrawn == []
    pool.forwarder.cancel(Cancel("1"))
    assert pool.withdrawn == [("1", "a")] and pool.code("1") is None
    pool.answer("a", "1", "cancelled")
    assert pool.code("1") == "cancelled"


def test_a_node_that_remembers_a_withdrawal_is_asked_by_another_name(make: Make) -> None:
    pool = make("a")
    order = pool.ask("1")
    before = order.correlation
    pool.answer("a", "1", "cancelled")
    assert pool.forwarded == [("1", "a")] * 2 and pool.code("1") is None
    assert order.correlation != before
    pool.answer("a", "1")
    assert pool.code("1") == "ok"


def test_two_requests_of_one_name_are_both_answered(make: Make) -> None:
    """A broker that has forgotten its session counts packet identifiers anew."""
    pool = make("a")
    first, second = pool.ask("1"), pool.ask("1")
    assert first.correlation != second.correlation
    for order in (first, second):
        pool.orders["1"] = order
        pool.answer("a", "1")
        assert pool.code("1") == "ok"


def test_a_node_that_was_called_off_before_does_not_hide_the_answer_of_another(make: Make) -> None:
    pool = make("a", "b")
    order = pool.ask("1")
    ((_, node),) = pool.forwarded
    known_as = order.correlation
    pool.answer({"a": "b", "b": "a"}[node], "1", "cancelled")
    assert order.correlation == known_as
    pool.answer(node, "1")
    assert pool.code("1") == "ok" and len(pool.forwarded) == 1


def test_what_is_cancelled_goes_to_no_other_node_when_its_own_ends(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1")
    ((_, node),) = pool.forwarded
    pool.forwarder.cancel(Cancel("1"))
    pool.say(node, "offline")
    assert pool.code("1") == "cancelled" and len(pool.forwarded) == 1


def test_what_a_node_has_is_not_unknown_because_it_left_the_pool(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1")
    ((_, node),) = pool.forwarded
    for each in "ab":
        pool.forwarder.hear(each, "info", info(tasks={}))
    pool.forwarder.hear("c", "info", info(pool={"name": "triage", "tasks": ["other"], "by": "dispatcher"}))
    pool.wait(SETTLE_S + 1)
    assert pool.code("1") is None
    pool.answer(node, "1")
    assert pool.code("1") == "ok"


def test_what_came_before_waits_for_its_answer_a_moment(make: Make) -> None:
    pool = make("a", "b")
    pool.ask("1", not_before=pool.clock.now + 1)
    assert pool.forwarded == []
    pool.ask("2", not_before=pool.clock.now + 1)
    pool.answer("b", "2")  # which was under way
    assert pool.code("2") == "ok"
    pool.wait(1.2)
    assert [id for id, _ in pool.forwarded] == ["1"]


def test_what_the_broker_does_not_take_is_no_loss(make: Make) -> None:
    pool = make("a")
    order = pool.ask("1")
    pool.forwarder.undelivered(order, "a", None)
    pool.wait(0.2)
    assert pool.forwarded == [("1", "a")] * 2
    pool.forwarder.undelivered(order, "a", InternalError("too large"))
    assert pool.code("1") == "internal"


def test_what_nobody_wants_any_more_leaves_nothing_behind(make: Make) -> None:
    pool = make("a")
    order = pool.ask("1")
    pool.forwarder.drop(order)
    assert (pool.forwarder.in_flight, len(pool.forwarder.waiting), pool.forwarder.load("a")) == (0, 0, 0)
    pool.answer("a", "1")
    assert pool.forwarder.counts["late"] == 1


def test_the_queue_of_others_at_a_node_counts_for_a_while(make: Make) -> None:
    pool = make("a", "b")
    pool.learn(a=100, b=100)
    pool.forwarder.hear("a", "health", b'{"queue": 10, "in_flight": 1}')
    for id in "12":
        pool.ask(id)
    assert [node for _, node in pool.forwarded] == ["b", "b"]


def test_nothing_is_kept_of_a_node_that_was_away_for_a_week(make: Make) -> None:
    pool = make("a")
    forwarder = pool.forwarder
    pool.ask("1")
    pool.answer("a", "1")
    forwarder.hear("a", "health", b'{"queue": 3}')
    pool.say("a", "offline")
    for _ in range(2):
        pool.clock.now += FORGET_S + FORGET_EVERY_S
        forwarder.tick()
    assert not forwarder.load("a") and not forwarder.throughput.figures("a")
    assert "a" not in (forwarder._members._nodes | forwarder._others | forwarder._loads)
