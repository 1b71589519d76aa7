from __future__ import annotations

import asyncio

from edgeslm.config.sections import Limits
from edgeslm.node.admission import Admission
from edgeslm.node.in_flight import InFlight
from tests.fakes import make_delivery


async def fail_on(held: InFlight, error: Exception) -> None:
    """Nobody hears of it."""


def test_a_message_is_released_when_all_of_its_work_has_ended_even_badly() -> None:
    async def main() -> None:
        released: list[tuple[InFlight, bool]] = []
        admission = Admission(lambda held, answered: released.append((held, answered)), fail_on)
        gate = asyncio.Event()

        async def fail() -> None:
            raise ZeroDivisionError

        async def wait() -> None:
            await gate.wait()

        held = InFlight(make_delivery(b"12345"), 0)
        admission.hold(held, [wait(), fail()])
        await asyncio.sleep(0)
        assert (len(admission), admission.bytes, released) == (1, 5, [])
        gate.set()
        assert await admission.drain(10) == 0
        await asyncio.sleep(0)
        assert released == [(held, True)]
        assert (len(admission), admission.bytes) == (0, 0)
        nobodys = InFlight(make_delivery(), 0)
        admission.hold(nobodys, [])
        assert released[-1] == (nobodys, True)

    asyncio.run(main())


def test_what_is_broken_off_is_not_answered() -> None:
    async def main() -> None:
        released: list[bool] = []
        admission = Admission(lambda held, answered: released.append(answered), fail_on)
        admission.hold(InFlight(make_delivery(), 0), [asyncio.sleep(3600)])
        assert await admission.drain(0.0) == 1
        admission.abandon()
        await admission.drain(10)
        await asyncio.sleep(0)
        assert released == [False]

    asyncio.run(main())


def test_room_is_bounded_in_messages_bytes_and_those_of_qos_0() -> None:
    async def main() -> None:
        limits = Limits(queue=4, queue_bytes=1024)
        admission = Admission(lambda held, answered: None, fail_on)
        big = InFlight(make_delivery(bytes(2000)), 0)
        assert admission.why_full(big, limits) is None, "one alone is taken, however big it is"
        admission.hold(big, [asyncio.sleep(3600)])
        assert not admission.has_room(limits)
        assert admission.why_full(InFlight(make_delivery(b"x"), 0), limits) is not None
        qos0 = InFlight(make_delivery(b"", qos=0), 0, qos0=True)
        admission.hold(qos0, [asyncio.sleep(3600)])
        assert "QoS 0" in (
            admission.why_full(InFlight(make_delivery(b"", qos=0), 0, qos0=True), limits) or ""
        )
        admission.abandon()
        await admission.drain(10)

    asyncio.run(main())


def test_a_mistake_of_ours_is_told_before_the_message_is_released() -> None:
    async def main() -> None:
        told: list[str] = []

        async def report(held: InFlight, error: Exception) -> None:
            await asyncio.sleep(0)
            told.append(type(error).__name__)

        async def fail() -> None:
            raise ZeroDivisionError

        admission = Admission(lambda held, answered: told.append(f"released {answered}"), report)
        admission.hold(InFlight(make_delivery(), 0, is_request=True), [fail()])
        await admission.drain(10)
        await asyncio.sleep(0)
        assert told == ["ZeroDivisionError", "released True"]

    asyncio.run(main())


def test_what_is_repeated_with_each_answer_counts_among_the_bytes() -> None:
    async def main() -> None:
        admission = Admission(lambda held, answered: None, fail_on)
        delivery = make_delivery(b"12345", correlation=b"c" * 200, response_topic="r" * 100)
        admission.hold(InFlight(delivery, 0), [asyncio.sleep(3600)])
        assert admission.bytes == 305
        admission.abandon()
        await admission.drain(10)
        await asyncio.sleep(0)
        assert admission.bytes == 0

    asyncio.run(main())
