"""From the network thread to the loop: nothing is lost, and a flood stays bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from paho.mqtt.client import MQTTMessage

from edgeslm.bus import handover as handover_module
from edgeslm.bus.handover import Delivery, Handover
from edgeslm.bus.problems import Problem, Welcome


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
        handover = Handover(asyncio.get_running_loop(), receiver, packet_limit=100, most_unsure=10)
        for _ in range(50):
            handover.received(LINK, message(b"x", qos=0))
        await asyncio.sleep(0)
        assert (len(receiver.got), handover.dropped) == (10, 40)
        handover.received(LINK, message(b"x", qos=0))
        await asyncio.sleep(0)
        assert len(receiver.got) == 11

    asyncio.run(main())


def test_large_messages_wait_for_the_loop_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "HANDOVER_WAIT_S", 30.0)

    async def main() -> None:
        receiver = Receiver()
        limit = handover_module.HANDOVER_BYTES
        handover = Handover(asyncio.get_running_loop(), receiver, packet_limit=limit, most_unsure=10)

        def network() -> None:
            for _ in range(8):
                handover.received(LINK, message(bytes(limit // 2)))

        thread = threading.Thread(target=network)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert len(receiver.got) == 8

    asyncio.run(main())


def test_the_network_thread_goes_on_when_the_loop_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "HANDOVER_WAIT_S", 0.01)

    async def main() -> None:
        receiver = Receiver()
        limit = handover_module.HANDOVER_BYTES
        handover = Handover(asyncio.get_running_loop(), receiver, packet_limit=limit, most_unsure=10)
        for _ in range(5):
            handover.received(LINK, message(bytes(limit // 2)))
        handover.received(LINK, message(b"x", qos=0))
        await asyncio.sleep(0)
        assert (len(receiver.got), handover.dropped) == (5, 1)

    asyncio.run(main())


def test_nothing_is_handed_over_after_close_or_to_an_ended_loop() -> None:
    receiver = Receiver()

    async def main() -> Handover:
        handover = Handover(asyncio.get_running_loop(), receiver, packet_limit=9, most_unsure=9)
        handover.received(LINK, message(b"x"))
        handover.close()
        handover.received(LINK, message(b"x"))
        await asyncio.sleep(0)
        return Handover(asyncio.get_running_loop(), receiver, packet_limit=9, most_unsure=9)

    handover = asyncio.run(main())
    handover.received(LINK, message(b"x"))
    handover.lost(Problem("gone"))
    assert receiver.got == []


def test_a_topic_that_is_no_utf8_comes_as_an_empty_one() -> None:
    async def main() -> None:
        receiver = Receiver()
        handover = Handover(asyncio.get_running_loop(), receiver, packet_limit=9, most_unsure=9)
        handover.received(LINK, message(b"x", topic=b"\xff"))
        await asyncio.sleep(0)
        assert receiver.got[0].topic == ""

    asyncio.run(main())
