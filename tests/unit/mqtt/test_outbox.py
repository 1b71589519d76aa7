"""What waits for the broker: order, bounds, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from edgeslm.errors import BrokerError
from edgeslm.mqtt.outbox import Outbox, Parcel
from edgeslm.protocol.delivery import OutgoingMessage


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def parcel(
    loop: asyncio.AbstractEventLoop, topic: str, *, retain: bool = False, expires_at: float | None = None
) -> Parcel:
    return Parcel(OutgoingMessage(topic, b"x", retain=retain), expires_at, [loop.create_future()])


def send(outbox: Outbox, mid: int) -> str | None:
    taken = outbox.take()
    if taken is None:
        return None
    outbox.flow.sent(mid, taken)
    return taken.message.topic


def test_first_in_first_out(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    for topic in "abc":
        outbox.add(parcel(loop, topic))
    assert [send(outbox, mid) for mid in (1, 2, 3, 4)] == ["a", "b", "c", None]
    assert (len(outbox), len(outbox.flow)) == (3, 3)


def test_acknowledgement_tells_who_waits_and_frees_the_bytes(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    good, bad = parcel(loop, "a"), parcel(loop, "b")
    outbox.add(good)
    outbox.add(bad)
    send(outbox, 1)
    send(outbox, 2)
    outbox.landed(2, BrokerError("not authorised"))
    outbox.landed(1)
    assert good.done[0].result() is None
    with pytest.raises(BrokerError, match="not authorised"):
        bad.done[0].result()
    assert (len(outbox), outbox.bytes) == (0, 0)


def test_after_a_broken_connection_the_order_is_kept(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    for topic in "abcd":
        outbox.add(parcel(loop, topic))
    for mid in (7, 8, 9):
        send(outbox, mid)
    outbox.landed(8)
    outbox.land_all()
    assert [send(outbox, mid) for mid in (1, 2, 3)] == ["a", "c", "d"]


def test_namesakes_end_with_their_connection(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    outbox.add(one := parcel(loop, "a"))
    outbox.flow.receive_maximum = 1
    send(outbox, 7)
    one.namesakes += 1  # a message of QoS 0, which the broken connection takes along
    outbox.land_all()
    assert one.namesakes == 0


def test_what_the_broker_hung_up_for_is_given_up(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    for topic in "abc":
        outbox.add(parcel(loop, topic))
    outbox.flow.receive_maximum = 10
    for mid in (1, 2):
        send(outbox, mid)
    outbox.land_all(outbox.flow.hung_up())
    assert outbox.flow.room == 1
    guilty = outbox.take()
    assert guilty is not None
    outbox.flow.sent(3, guilty)
    outbox.land_all(outbox.flow.hung_up(), BrokerError("hung up"))
    with pytest.raises(BrokerError, match="hung up"):
        guilty.done[0].result()
    assert [send(outbox, mid) for mid in (4, 5, 6)] == ["b", "c", None]
    assert outbox.bytes == 2 * guilty.size


def test_the_bound_holds_for_queue_and_flight_together(loop: asyncio.AbstractEventLoop) -> None:
    one = parcel(loop, "a")
    outbox = Outbox(2 * one.size)
    outbox.add(one)
    send(outbox, 1)
    outbox.add(parcel(loop, "b"))
    with pytest.raises(BrokerError, match="limit"):
        outbox.add(parcel(loop, "c"))
    outbox.landed(1)
    outbox.add(parcel(loop, "c"))


def test_a_newer_retained_message_replaces_a_waiting_one(loop: asyncio.AbstractEventLoop) -> None:
    older, newer = parcel(loop, "health", retain=True), parcel(loop, "health", retain=True)
    outbox = Outbox(3 * older.size)
    outbox.add(older)
    outbox.add(parcel(loop, "result"))
    outbox.add(newer)
    assert [send(outbox, mid) for mid in (1, 2, 3)] == ["result", "health", None]
    outbox.landed(2)
    assert older.done[0].done()
    assert newer.done[0].done()
    outbox.landed(1)
    assert outbox.bytes == 0


def test_a_retained_message_in_flight_is_not_replaced(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    outbox.add(parcel(loop, "health", retain=True))
    send(outbox, 1)
    outbox.add(parcel(loop, "health", retain=True))
    outbox.land_all()
    assert [send(outbox, mid) for mid in (2, 3)] == ["health", "health"]


def test_the_rest_of_a_life_in_whole_seconds(loop: asyncio.AbstractEventLoop) -> None:
    assert parcel(loop, "a").expiry_s(5.0) is None
    assert parcel(loop, "a", expires_at=6.2).expiry_s(5.0) == 2
    assert parcel(loop, "a", expires_at=4.0).expiry_s(5.0) == 0


def test_clear_hands_out_everything(loop: asyncio.AbstractEventLoop) -> None:
    outbox = Outbox(1000)
    for topic in "abc":
        outbox.add(parcel(loop, topic))
    send(outbox, 1)
    assert [one.message.topic for one in outbox.clear()] == ["a", "b", "c"]
    assert (len(outbox), outbox.bytes) == (0, 0)
