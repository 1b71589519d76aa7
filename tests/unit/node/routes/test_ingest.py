"""Messages into collections: tried again, given up in the end, and never kept twice."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from edgeslm.config.loader import Route
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.queries import Memory
from edgeslm.node.routes.ingest import Ingest
from edgeslm.telemetry.health import Meter
from tests.support.fakes import make_delivery

PAUSES_S = (0.0, 0.0, 0.0)
ROUTE = Route.model_validate({"from": "press/+", "remember": "log", "keep_s": 60})


class FakeLibrary:
    """Fails so many times."""

    def __init__(self, failures: int = 0) -> None:
        self.kept: list[tuple[str, Memory]] = []
        self._failures = failures

    async def remember(self, collection: str, memory: Memory) -> None:
        if self._failures:
            self._failures -= 1
            raise KnowledgeError("no space left")
        self.kept.append((collection, memory))


def keep(
    library: FakeLibrary, route: Route = ROUTE, key: bytes | None = b"\x01" * 16, retain: bool = False
) -> list[str]:
    delivery = make_delivery(topic="press/4", retain=retain, received_at=time.monotonic() - 5)
    service: Any = SimpleNamespace(library=library)
    meter = Meter()
    asyncio.run(Ingest(service, meter, PAUSES_S).keep(route, delivery, "bearing 7 runs hot", key))
    return list(meter.dropped.elements())


def test_a_message_has_its_topic_its_time_and_a_name_that_stays() -> None:
    library = FakeLibrary()
    assert keep(library) == keep(library) == []
    (collection, memory), again = library.kept
    assert (collection, memory.source, memory.text) == ("log", "press/4 010101010101", "bearing 7 runs hot")
    assert abs(time.time() - 5 - memory.at) < 60
    assert memory.keep_s == 60
    assert again[1].source == memory.source


def test_messages_without_a_key_are_others_each_time() -> None:
    library = FakeLibrary()
    keep(library, key=None)
    keep(library, key=None)
    assert len({memory.source for _, memory in library.kept}) == 2


def test_a_retained_message_that_comes_with_each_connection_is_kept_once() -> None:
    library = FakeLibrary()
    keep(library, key=b"\x01" * 16, retain=True)
    keep(library, key=b"\x02" * 16, retain=True)
    keep(library, key=None, retain=True)
    assert len({memory.source for _, memory in library.kept}) == 1


def test_a_full_disk_is_tried_again() -> None:
    library = FakeLibrary(failures=3)
    assert keep(library) == []
    assert len(library.kept) == 1


def test_in_the_end_it_is_given_up_and_counted() -> None:
    library = FakeLibrary(failures=4)
    assert keep(library) == ["not_remembered"]
    assert not library.kept


def test_a_route_that_remembers_nothing() -> None:
    library = FakeLibrary()
    assert keep(library, Route.model_validate({"from": "press/+", "task": "triage"})) == []
    assert not library.kept
