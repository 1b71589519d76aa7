from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from edgeslm.config.fields import Window
from edgeslm.config.sections import Limits
from edgeslm.node.in_flight import Admission
from edgeslm.node.routes.route import RouteWork
from edgeslm.node.routes.windows import WindowAggregator, WindowLimits
from edgeslm.storage.database import RETRY_S, Database
from edgeslm.storage.window_store import Windows
from edgeslm.telemetry.health import Meter
from tests.support.apps import WAIT_S
from tests.support.disks import flip
from tests.support.fakes import FakeClock, make_key

TOPIC = "hall/digest"


class Hall:
    """A gatherer of the route ``hall``, and what comes of it."""

    def __init__(
        self,
        database: Database,
        window: Window,
        *,
        is_stuck: bool = False,
        limits: WindowLimits | None = None,
    ) -> None:
        self.digests: list[tuple[str, list[str], int]] = []
        self.inputs: list[Mapping[str, Any]] = []
        self.meter = Meter()
        nobody: Any = None
        self.admission = Admission(Limits(), nobody, nobody, self.meter)
        self._number = 0
        self._is_stuck = is_stuck
        self.on_digest: Callable[[], object] = lambda: None
        self.aggregator = WindowAggregator(
            Windows(database),
            {"hall": window},
            self.admission,
            self,
            self.meter,
            limits or WindowLimits(),
        )
        self.aggregator.open()

    @property
    def dropped(self) -> list[str]:
        return list(self.meter.dropped.elements())

    async def digest(self, name: str, topic: str, messages: Mapping[str, Any], batch: int) -> None:
        assert name == "hall" and batch
        if self._is_stuck:
            await asyncio.Event().wait()
        self.inputs.append(messages)
        texts = [message["text"] for message in messages["messages"]]
        self.digests.append((topic, texts, messages["dropped"]))
        self.on_digest()

    def add(self, text: str, topic: str = TOPIC, **fields: Any) -> asyncio.Task[None]:
        self._number += 1
        known = {
            "received": 1000.0 + self._number,
            "key": make_key(self._number),
            "is_again": False,
            **fields,
        }
        work = RouteWork("brief", text, topic, 1, False, known.pop("id", None))
        return asyncio.ensure_future(self.aggregator.add("hall", work, "hall/log", **known))

    async def added(self, *texts: str, **fields: Any) -> None:
        await asyncio.gather(*(self.add(text, **fields) for text in texts))
        await self.settled()

    async def settled(self) -> None:
        await asyncio.sleep(0)
        if not self._is_stuck:
            await self.admission.drain(WAIT_S)


def hall(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(run())


def test_so_many_messages_make_a_digest(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=3, most=3))
        await hall.added("a", "b")
        assert hall.digests == []
        await hall.added("c", "d")
        assert hall.digests == [(TOPIC, ["a", "b", "c"], 0)]

    hall(main)


def test_a_burst_makes_digests_of_as_many_messages_each(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=3, most=3))
        await hall.added(*"abcdefgh")
        assert hall.digests == [(TOPIC, ["a", "b", "c"], 0), (TOPIC, ["d", "e", "f"], 0)]
        assert hall.dropped == []

    hall(main)


def test_each_topic_has_a_window_of_its_own(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=2, most=2))
        await hall.added("a", topic="one")
        await hall.added("b", topic="two")
        await hall.added("c", topic="one")
        assert hall.digests == [("one", ["a", "c"], 0)]

    hall(main)


def test_a_window_ends_when_its_time_is_over(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(every_s=0.01))
        await hall.added("a", "b")
        while not hall.digests:
            await asyncio.sleep(0.005)
        assert hall.digests == [(TOPIC, ["a", "b"], 0)]
        await asyncio.sleep(0.02)
        assert len(hall.digests) == 1, "nothing came, so there is nothing to say"

    hall(main)


def test_a_window_ends_when_it_is_told_to_with_what_came_before(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(on="end"))
        coming = hall.add("a")
        await asyncio.sleep(0)  # it is about to be written
        await hall.aggregator.complete("hall")
        await coming
        await hall.settled()
        assert hall.digests == [(TOPIC, ["a"], 0)]
        await hall.aggregator.complete("hall")
        await hall.settled()
        assert len(hall.digests) == 1

    hall(main)


def test_what_was_gathered_before_a_restart_counts(database: Database, clock: FakeClock) -> None:
    async def main() -> None:
        await Hall(database, Window(last=3, most=3)).added("a", "b")
        hall = Hall(database, Window(last=3, most=3))
        await hall.added("c")
        assert hall.digests == [(TOPIC, ["a", "b", "c"], 0)]
        await Hall(database, Window(every_s=60)).added("d")
        clock.now += 61
        late = Hall(database, Window(every_s=60))
        while not late.digests:
            await asyncio.sleep(0.005)
        assert late.digests == [(TOPIC, ["d"], 0)]

    hall(main)


def test_a_digest_that_was_not_published_is_made_after_the_restart(database: Database) -> None:
    async def main() -> None:
        stuck = Hall(database, Window(last=2, most=2), is_stuck=True)
        await stuck.added("a", "b", "c")
        stuck.admission.abandon()
        hall = Hall(database, Window(last=2, most=2))
        await hall.settled()
        assert hall.digests == [(TOPIC, ["a", "b"], 0)]
        await Hall(database, Window(last=2, most=2)).settled()
        await hall.added("d")
        assert hall.digests[1:] == [(TOPIC, ["c", "d"], 0)]

    hall(main)


def test_what_comes_again_counts_once(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=2, most=2))
        await hall.added("a", key=make_key(99))
        await hall.added("a", key=make_key(99), is_again=True)
        assert hall.digests == []

    hall(main)


def test_what_is_beyond_the_bound_is_counted(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(on="end", most=2))
        await hall.added(*"abcd")
        await hall.aggregator.complete("hall")
        await hall.settled()
        assert hall.digests == [(TOPIC, ["a", "b"], 2)]
        assert hall.dropped == ["window", "window"]

    hall(main)


def test_bytes_are_bounded_too_and_a_window_of_so_many_still_ends(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=3, most=3), limits=WindowLimits(most_bytes=100))
        await hall.added("a", id="1")
        await hall.added("b" * 200, id="2")
        await hall.added("c", id="3")
        assert hall.digests == [(TOPIC, ["a", "c"], 1)]

    hall(main)


def test_topics_are_bounded(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(on="end"), limits=WindowLimits(most_open=2))
        for topic in ("one", "two", "three", "one"):
            await hall.added("a", topic=topic)
        await hall.aggregator.complete("hall")
        await hall.settled()
        assert hall.digests == [("one", ["a", "a"], 0), ("two", ["a"], 0)]
        assert hall.dropped == ["window"]

    hall(main)


def test_while_the_disk_is_full_messages_wait_and_those_nobody_waits_for_are_dropped(
    database: Database, clock: FakeClock
) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=2, most=2), limits=WindowLimits(retry_s=0.01))
        database.opened.execute("PRAGMA query_only = ON")
        sure, unsure = hall.add("a"), hall.add("b", key=None)
        await unsure
        assert hall.dropped == ["window"]
        await asyncio.sleep(0.03)
        assert not sure.done()
        database.opened.execute("PRAGMA query_only = OFF")
        clock.now += RETRY_S
        await sure
        await hall.added("c")
        assert hall.digests == [(TOPIC, ["a", "c"], 0)]

    hall(main)


def test_a_published_window_is_deleted_as_soon_as_the_disk_lets_it(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=1, most=1), limits=WindowLimits(retry_s=0.01))
        hall.on_digest = lambda: database.opened.execute("PRAGMA query_only = ON")
        await hall.added("a")
        assert Windows(database).stored(), "it can't be deleted now"
        database.opened.execute("PRAGMA query_only = OFF")
        while Windows(database).stored():
            await asyncio.sleep(0.005)
        assert hall.digests == [(TOPIC, ["a"], 0)]

    hall(main)


def test_messages_are_named_by_themselves_or_by_where_and_when_they_came(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=4, most=4))
        await hall.added("a", id="42")
        await hall.added("b", "c", received=1_000_000_000.25)
        await hall.added("\ud83d", id="42")
        assert [message["id"] for message in hall.inputs[0]["messages"]] == [
            "42",
            "hall/log@2001-09-09T01:46:40.250Z",
            "hall/log@2001-09-09T01:46:40.250Z#2",
            "42#2",
        ]
        assert hall.inputs[0]["messages"][1]["at"] == "2001-09-09T01:46:40.250Z"
        assert hall.inputs[0]["messages"][3]["text"] == "?"

    hall(main)


def test_what_a_route_gathered_that_is_no_more_is_forgotten(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(on="end"))
        await hall.added("a")
        WindowAggregator(Windows(database), {}, hall.admission, hall, hall.meter).open()
        assert Windows(database).stored() == []

    hall(main)


def test_a_message_that_the_disk_changed_counts_as_dropped(database: Database) -> None:
    async def main() -> None:
        hall = Hall(database, Window(last=3, most=3))
        await hall.added("one", "two")
        flip(database, "UPDATE windows SET text = 'twa' WHERE text = 'two'")
        await hall.added("three")
        assert hall.digests == [(TOPIC, ["one", "three"], 1)]
        assert hall.dropped == ["damaged"]

    hall(main)
