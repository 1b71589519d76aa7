from __future__ import annotations

import json
from typing import Any

from edgeslm.bus.protocol import Topics
from edgeslm.messages import Progress, Request
from edgeslm.outgoing import Outgoing


class FakeBus:
    """What is published to it."""

    def __init__(self) -> None:
        self.published: list[tuple[str, dict[str, Any], int]] = []

    def publish(self, topic: str, payload: bytes, *, qos: int, correlation: bytes | None) -> None:
        self.published.append((topic, json.loads(payload), qos))


def test_pieces_of_a_stream_are_numbered_and_may_say_how_far_it_is() -> None:
    bus = FakeBus()
    outgoing = Outgoing(bus, Topics("hall"))  # type: ignore[arg-type]
    send = outgoing.chunks_of(Request("brief", "x", "7", "a/res", options={"stream": True}))
    assert send is not None
    send(Progress(1, 3))
    send("The press")
    assert bus.published == [
        ("a/res/stream", {"id": "7", "seq": 0, "text": "", "progress": {"done": 1, "of": 3}}, 0),
        ("a/res/stream", {"id": "7", "seq": 1, "text": "The press"}, 0),
    ]


def test_nothing_is_streamed_unless_asked_for() -> None:
    outgoing = Outgoing(FakeBus(), Topics("hall"))  # type: ignore[arg-type]
    assert outgoing.chunks_of(Request("brief", "x", "7", "a/res")) is None
