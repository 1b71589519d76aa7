"""What Home Assistant is told again, and what is taken back. No broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeslm.config.loader import parse_config
from edgeslm.telemetry import home_assistant
from edgeslm.telemetry.home_assistant import Announcer
from tests.support.config_texts import with_routes
from tests.support.fakes import FakePresence, FakeService


@pytest.fixture(autouse=True)
def told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's kind is its document, its name the topic."""
    monkeypatch.setattr(home_assistant, "announcements", lambda config, kinds, schemas: kinds)


class House:
    """What is published, as a broker that retains would have it."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "discovery.json"
        self.service = FakeService()
        self.sent: list[tuple[str, bytes]] = []
        self.gate: asyncio.Event | None = None
        self.announcer = self.start()

    def start(self) -> Announcer:
        presence = FakePresence(retain=self.publish)
        config = parse_config(with_routes())
        self.announcer = Announcer(self.record, config, self.service, presence, pause_s=0.0)
        return self.announcer

    def wants(self, **documents: dict[str, Any]) -> None:
        self.service.tasks = {
            topic: SimpleNamespace(kind=document, section=None) for topic, document in documents.items()
        }

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.sent.append((topic, payload))

    async def announce(self) -> list[tuple[str, bytes]]:
        """What one announcement sends."""
        self.sent.clear()
        self.announcer.announce()
        await others_done()
        return list(self.sent)


async def others_done() -> None:
    """Waits for all other tasks of the loop."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


def run(work: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(whole())


def test_all_is_told_each_time_and_what_is_gone_is_taken_back_once(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.wants(a={"n": 1}, b={})
        assert await house.announce() == [("a", b'{"n": 1}'), ("b", b"{}")]
        assert await house.announce() == [("a", b'{"n": 1}'), ("b", b"{}")]
        house.wants(b={})
        house.start()  # the next run of the node
        assert await house.announce() == [("a", b""), ("b", b"{}")]
        assert await house.announce() == [("b", b"{}")]
        house.wants()
        assert await house.announce() == [("b", b"")]
        assert await house.announce() == []

    run(work())


def test_a_node_that_tells_nothing_writes_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        assert await house.announce() == []
        assert not house.record.exists()

    run(work())


def test_an_end_in_between_forgets_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.wants(old={})
        await house.announce()
        house.wants(new={})
        house.gate = asyncio.Event()
        house.announcer.announce()
        await asyncio.sleep(0)
        await house.announcer.stop()
        house.gate = None
        house.wants()
        house.start()
        assert await house.announce() == [("new", b""), ("old", b"")]

    run(work())


def test_many_calls_at_once_are_one_more(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.wants(a={})
        house.gate = asyncio.Event()
        house.announcer.announce()
        await asyncio.sleep(0)
        for _ in range(100):
            house.announcer.announce()
        house.gate.set()
        await others_done()
        assert house.sent == [("a", b"{}")] * 2

    run(work())


@pytest.mark.parametrize("noted", ["", "{", "7", '{"a": 1}', "[1, null]", "\xff"])
def test_a_damaged_note_is_no_end(tmp_path: Path, noted: str) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.record.write_text(noted, "latin-1")
        house.wants(a={})
        assert await house.announce() == [("a", b"{}")]
        assert json.loads(house.record.read_text()) == ["a"]

    run(work())


def test_a_disk_that_is_full_is_no_end(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.record.with_suffix(".new").mkdir()
        house.wants(a={})
        assert await house.announce() == [("a", b"{}")]

    run(work())
