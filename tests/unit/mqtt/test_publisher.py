from __future__ import annotations

import asyncio
import json
from typing import Any

from edgeslm.messages import Progress, Request
from edgeslm.mqtt.outbox import Outbox, Parcel
from edgeslm.mqtt.publisher import Publisher
from edgeslm.protocol.codec import Topics, parse_result
from edgeslm.protocol.delivery import OutgoingMessage


class FakeBus:
    """What is published to it."""

    def __init__(self) -> None:
        self.published: list[tuple[str, dict[str, Any], int]] = []

    def publish(self, message: OutgoingMessage) -> None:
        self.published.append((message.topic, json.loads(message.payload), message.qos))


def test_pieces_of_a_stream_are_numbered_and_may_say_how_far_it_is() -> None:
    bus = FakeBus()
    outgoing = Publisher(bus, Topics("hall"))  # type: ignore[arg-type]
    send = outgoing.chunks_of(Request("brief", "x", "7", "a/res", options={"stream": True}))
    assert send is not None
    send(Progress(1, 3))
    send("The press")
    assert bus.published == [
        ("a/res/stream", {"id": "7", "seq": 0, "text": "", "progress": {"done": 1, "of": 3}}, 0),
        ("a/res/stream", {"id": "7", "seq": 1, "text": "The press"}, 0),
    ]


def test_nothing_is_streamed_unless_asked_for() -> None:
    outgoing = Publisher(FakeBus(), Topics("hall"))  # type: ignore[arg-type]
    assert outgoing.chunks_of(Request("brief", "x", "7", "a/res")) is None


def test_a_result_above_the_limit_of_the_outbox_is_answered_too_large_at_once() -> None:
    class SmallBus:
        def __init__(self) -> None:
            self.outbox = Outbox(1000)

        async def publish(self, message: OutgoingMessage) -> None:
            self.outbox.add(Parcel(message))

    async def main() -> None:
        bus = SmallBus()
        outgoing = Publisher(bus, Topics("hall"))  # type: ignore[arg-type]
        request = Request("brief", "x", "7", "a/res", correlation=b"c")
        await asyncio.wait_for(outgoing.resend(request, b"x" * 2000), 60)
        parcel = bus.outbox.take()
        assert parcel is not None
        assert (parcel.message.topic, parcel.message.correlation) == ("a/res", b"c")
        answered = parse_result(parcel.message.payload)
        assert (answered.id, answered.error and answered.error.code) == ("7", "too_large")

    asyncio.run(main())
