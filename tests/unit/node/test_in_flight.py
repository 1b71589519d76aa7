from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from edgeslm.config.sections import Limits
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.in_flight import Admission, InFlight
from edgeslm.protocol.codec import Topics, parse_result
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.telemetry.health import Meter
from tests.support.fakes import make_delivery


class Hall:
    """An admission; ``told`` is what was acknowledged and published, in that order."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.told: list[Any] = []
        bus: Any = self
        publisher = Publisher(bus, Topics("hall"))
        self.admission = Admission(limits or Limits(), self, publisher, Meter())

    def acknowledge(self, held: InFlight) -> None:
        self.told.append(held)

    async def publish(self, message: OutgoingMessage) -> None:
        await asyncio.sleep(0)
        self.told.append((message.topic, message.payload))

    async def work(self, held: InFlight, error: BaseException | None = None, wait_s: float = 0.0) -> None:
        async with self.admission.hold(held):
            await asyncio.sleep(wait_s)
            if error is not None:
                raise error

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.admission.abandon()
        await self.admission.drain(10)


def test_a_message_is_acknowledged_when_all_of_its_work_has_ended_even_badly() -> None:
    async def main() -> None:
        hall, gate = Hall(), asyncio.Event()
        held = InFlight(make_delivery(b"12345"), 0)

        async def wait() -> None:
            async with hall.admission.hold(held):
                await gate.wait()

        hall.admission.admit(held, wait(), hall.work(held, ZeroDivisionError()))
        for _ in range(3):
            await asyncio.sleep(0)
        assert (len(hall.admission), hall.admission.bytes, hall.told) == (1, 5, [])
        gate.set()
        assert await hall.admission.drain(10) == 0
        assert hall.told == [held]
        assert (len(hall.admission), hall.admission.bytes) == (0, 0)
        nobodys = InFlight(make_delivery(), 0)
        hall.admission.admit(nobodys)
        assert hall.told[-1] is nobodys

    asyncio.run(main())


def test_a_message_is_held_from_when_it_is_admitted_and_not_from_when_its_work_begins() -> None:
    """What came in the same turn as the end of the connection has to be found by who looks then."""

    async def main() -> None:
        hall = Hall()
        held = InFlight(make_delivery(), 0)
        hall.admission.admit(held, hall.work(held))
        assert list(hall.admission) == [held]
        await hall.stop()

    asyncio.run(main())


@pytest.mark.parametrize("others", [0, 1])
def test_what_is_broken_off_is_not_acknowledged(others: int) -> None:
    async def main() -> None:
        hall = Hall()
        held = InFlight(make_delivery(), 0, is_request=True)
        hall.admission.admit(held, hall.work(held, wait_s=3600), *[hall.work(held) for _ in range(others)])
        assert await hall.admission.drain(0.05) == 1
        await hall.stop()
        assert hall.told == [] and len(hall.admission) == 0

    asyncio.run(main())


def test_what_is_broken_off_while_it_is_given_up_is_not_acknowledged() -> None:
    async def main() -> None:
        hall = Hall()
        reached = asyncio.Event()

        async def hang(message: OutgoingMessage) -> None:
            reached.set()
            await asyncio.Event().wait()

        hall.publish = hang  # type: ignore[method-assign]
        held = InFlight(make_delivery(), 0, is_request=True)
        hall.admission.admit(held, hall.work(held, ZeroDivisionError()))
        await reached.wait()
        await hall.stop()
        assert hall.told == [] and len(hall.admission) == 0

    asyncio.run(main())


def test_room_is_bounded_in_messages_bytes_and_those_of_qos_0() -> None:
    async def main() -> None:
        hall = Hall(Limits(queue=4, queue_bytes=1024))

        def admitted(payload: bytes, qos: int = 1) -> str | None:
            held = InFlight(make_delivery(payload, qos=qos), 0, is_request=True)
            hall.admission.admit(held, hall.work(held, wait_s=3600))
            return held.refusal

        assert admitted(bytes(2000)) is None, "one alone is taken, however big it is"
        assert not hall.admission.has_room
        assert "bytes are waiting" in (admitted(b"x") or "")
        await hall.stop()
        flood = make_delivery(b"", qos=0)
        refusals = []
        while not hall.admission.is_flood(flood):
            refusals.append(admitted(b"", qos=0))
        assert refusals[0] is None and "QoS 0" in (refusals[-1] or "")
        assert not hall.admission.is_flood(make_delivery(b""))
        await hall.stop()

    asyncio.run(main())


@pytest.mark.parametrize("shortages", [0, 1])
def test_what_a_mistake_of_ours_ended_is_answered_and_reported_dead_before_it_is_acknowledged(
    shortages: int,
) -> None:
    async def main() -> None:
        hall, topics = Hall(), Topics("hall")
        publish, left = hall.publish, [shortages]

        async def scarce(message: OutgoingMessage) -> None:
            if left[0]:
                left[0] -= 1
                raise MemoryError
            await publish(message)

        hall.publish = scarce  # type: ignore[method-assign]
        delivery = make_delivery(b"Smoke", topic=topics.request("triage"), correlation=b"seven")
        request = InFlight(delivery, 0, addressee=(topics, "triage"), is_request=True)
        hall.admission.admit(request, hall.work(request, ZeroDivisionError()))
        await hall.admission.drain(10)
        *_, (to, result), (dead, report), last = hall.told
        error = parse_result(result).error
        assert (to, error and error.code) == (topics.result("triage"), "internal")
        assert (dead, json.loads(report)["reason"]) == (topics.dead, "internal")
        assert last is request
        hall.told.clear()
        watched = InFlight(make_delivery(topic="plant/log"), 0, is_request=True)
        hall.admission.admit(watched, hall.work(watched, ZeroDivisionError()))
        await hall.admission.drain(10)
        (dead, report), last = hall.told
        assert (dead, json.loads(report)["reply_to"], last) == (topics.dead, "plant/log", watched)

    asyncio.run(main())


def test_what_is_repeated_with_each_answer_counts_among_the_bytes() -> None:
    async def main() -> None:
        hall = Hall()
        held = InFlight(make_delivery(b"12345", correlation=b"c" * 200, response_topic="r" * 100), 0)
        hall.admission.admit(held, hall.work(held, wait_s=3600))
        assert hall.admission.bytes == 305
        await hall.stop()
        assert hall.admission.bytes == 0

    asyncio.run(main())


def test_a_message_at_qos_1_has_a_name_and_one_at_qos_0_has_none() -> None:
    held = InFlight(make_delivery(), 3)
    assert held.key is not None and held.key == InFlight(make_delivery(dup=True), 3).key
    assert held.key != InFlight(make_delivery(), 4).key
    assert InFlight(make_delivery(qos=0), 3).key is None
    assert InFlight(make_delivery(), 3, b"own name").key == b"own name"


def test_only_requests_count_among_those_of_qos_0() -> None:
    """A burst of cancels or corrections must not make requests busy."""

    async def main() -> None:
        hall = Hall(Limits(queue=1))
        for _ in range(5 * Limits(queue=1).qos0_queue):
            cancel = InFlight(make_delivery(qos=0), 0)
            hall.admission.admit(cancel, hall.work(cancel))
        first = InFlight(make_delivery(qos=0), 0, is_request=True)
        hall.admission.admit(first, hall.work(first))
        assert first.refusal is None
        assert hall.admission.qos0 == 1
        await hall.admission.drain(10)
        assert hall.admission.qos0 == 0

    asyncio.run(main())


def test_a_message_that_comes_again_on_a_new_connection_is_held_once_and_acknowledged_there() -> None:
    async def main() -> None:
        hall, gate = Hall(), asyncio.Event()
        held = InFlight(make_delivery(b"12345", generation=1), 4)

        async def wait() -> None:
            async with hall.admission.hold(held):
                await gate.wait()

        hall.admission.admit(held, wait())
        again = make_delivery(b"12345", generation=2, dup=True)
        others = [
            (replace(again, dup=False), 4),
            (replace(again, payload=b"other"), 4),
            (replace(again, mid=99), 4),
            (replace(again, generation=1), 4),
            (again, 5),
        ]
        assert not any(hall.admission.renew(*other) for other in others)
        assert hall.admission.renew(again, 4)
        assert (len(hall.admission), hall.admission.bytes) == (1, 5)
        gate.set()
        assert await hall.admission.drain(10) == 0
        assert [one.delivery for one in hall.told] == [again]

    asyncio.run(main())
