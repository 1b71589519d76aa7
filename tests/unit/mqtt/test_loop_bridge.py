"""From the network thread to the loop: nothing is lost, and a flood stays bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import MQTTMessage

from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.mqtt.loop_bridge import BRIDGE_BYTES, LoopBridge
from edgeslm.protocol.delivery import Delivery


class Receiver:
    def __init__(self) -> None:
        self.got: list[Delivery] = []

    def delivered(self, delivery: Delivery) -> None:
        self.got.append(delivery)

    def link_up(self, generation: int, link: Any, welcome: Welcome) -> None: ...
    def acknowledged(self, generation: int, mid: int, failure: str | None) -> None: ...
    def subscribed(self, generation: int, mid: int, failures: Sequence[str | None]) -> None: ...
    def link_down(self, problem: Problem) -> None: ...


def message(payload: bytes, qos: int = 1, topic: bytes = b"a/b") -> MQTTMessage:
    made = MQTTMessage(7, topic)
    made.payload = payload
    made.qos = qos
    return made


LINK: Any = None


def test_a_flood_of_qos_0_is_bounded_while_the_loop_is_busy() -> None:
    async def main() -> None:
        receiver = Receiver()
        bridge = LoopBridge(asyncio.get_running_loop(), receiver, packet_limit=100, most_qos0=10)
        for _ in range(50):
            bridge.received(LINK, message(b"x", qos=0))
        await asyncio.sleep(0)
        assert (len(receiver.got), bridge.dropped) == (10, 40)
        bridge.received(LINK, message(b"x", qos=0))
        await asyncio.sleep(0)
        assert len(receiver.got) == 11

    asyncio.run(main())


def test_large_messages_wait_for_the_loop_and_none_is_lost() -> None:
    async def main() -> None:
        receiver = Receiver()
        limit, loop = BRIDGE_BYTES, asyncio.get_running_loop()
        bridge = LoopBridge(loop, receiver, packet_limit=limit, most_qos0=10, wait_s=30.0)

        def network() -> None:
            for _ in range(8):
                bridge.received(LINK, message(bytes(limit // 2)))

        thread = threading.Thread(target=network)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert len(receiver.got) == 8

    asyncio.run(main())


def test_the_network_thread_goes_on_when_the_loop_is_stuck() -> None:
    async def main() -> None:
        receiver = Receiver()
        limit, loop = BRIDGE_BYTES, asyncio.get_running_loop()
        bridge = LoopBridge(loop, receiver, packet_limit=limit, most_qos0=10, wait_s=0.01)
        for _ in range(5):
            bridge.received(LINK, message(bytes(limit // 2)))
        bridge.received(LINK, message(b"x", qos=0))
        await asyncio.sleep(0)
        assert (len(receiver.got), bridge.dropped) == (5, 1)

    asyncio.run(main())


def test_nothing_is_handed_over_after_close_or_to_an_ended_loop() -> None:
    receiver = Receiver()

    async def main() -> LoopBridge:
        bridge = LoopBridge(asyncio.get_running_loop(), receiver, packet_limit=9, most_qos0=9)
        bridge.received(LINK, message(b"x"))
        bridge.close()
        bridge.received(LINK, message(b"x"))
        await asyncio.sleep(0)
        return LoopBridge(asyncio.get_running_loop(), receiver, packet_limit=9, most_qos0=9)

    bridge = asyncio.run(main())
    bridge.received(LINK, message(b"x"))
    bridge.lost(Problem("gone"))
    assert receiver.got == []


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often other threads wake it."""

    calls = 0

    def call_soon_threadsafe(self, *values: Any, **named: Any) -> asyncio.Handle:  # type: ignore[override]
        self.calls += 1
        return super().call_soon_threadsafe(*values, **named)


def test_many_messages_wake_the_loop_once_and_keep_their_order() -> None:
    async def main() -> None:
        receiver = Receiver()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        bridge = LoopBridge(loop, receiver, packet_limit=9, most_qos0=9)
        for round_ in (1, 2):
            for number in range(5):
                bridge.received(LINK, message(b"%d" % number))
            await asyncio.sleep(0)
            assert loop.calls == round_
        assert [delivery.payload for delivery in receiver.got] == [b"0", b"1", b"2", b"3", b"4"] * 2

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


def test_what_can_not_be_taken_in_does_not_hold_back_the_rest() -> None:
    class Picky(Receiver):
        def delivered(self, delivery: Delivery) -> None:
            super().delivered(delivery)
            if delivery.payload == b"bad":
                raise ValueError

    async def main() -> None:
        receiver = Picky()
        loop = asyncio.get_running_loop()
        told: list[object] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        bridge = LoopBridge(loop, receiver, packet_limit=9, most_qos0=9)
        bridge.received(LINK, message(b"bad"))
        bridge.received(LINK, message(b"good"))
        await asyncio.sleep(0)
        assert [delivery.payload for delivery in receiver.got] == [b"bad", b"good"]
        assert [type(error) for error in told] == [ValueError]

    asyncio.run(main())


def test_a_topic_that_is_no_utf8_comes_as_an_empty_one() -> None:
    async def main() -> None:
        receiver = Receiver()
        bridge = LoopBridge(asyncio.get_running_loop(), receiver, packet_limit=9, most_qos0=9)
        bridge.received(LINK, message(b"x", topic=b"\xff"))
        await asyncio.sleep(0)
        assert receiver.got[0].topic == ""

    asyncio.run(main())
