"""What Home Assistant is told again, and what is taken back. No broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from edgeslm.telemetry import home_assistant
from edgeslm.telemetry.home_assistant import Announcer


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_assistant, "PAUSE_S", 0.0)


class House:
    """What is published, as a broker that retains would have it."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "discovery.json"
        self.wanted: dict[str, dict[str, Any]] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.gate: asyncio.Event | None = None
        self.announcer = self.start()

    def start(self) -> Announcer:
        self.announcer = Announcer(self.record, lambda: self.wanted, self.publish)
        return self.announcer

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.sent.append((topic, payload))

    async def announce(self) -> list[tuple[str, bytes]]:
        """What one announcement sends."""
        self.sent.clear()
        self.announcer.announce()
        assert self.announcer._work is not None
        await self.announcer._work
        return list(self.sent)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_all_is_told_each_time_and_what_is_gone_is_taken_back_once(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.wanted = {"a": {"n": 1}, "b": {}}
        assert await house.announce() == [("a", b'{"n": 1}'), ("b", b"{}")]
        assert await house.announce() == [("a", b'{"n": 1}'), ("b", b"{}")]
        house.wanted = {"b": {}}
        house.start()  # the next run of the node
        assert await house.announce() == [("a", b""), ("b", b"{}")]
        assert await house.announce() == [("b", b"{}")]
        house.wanted = {}
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
        house.wanted = {"old": {}}
        await house.announce()
        house.wanted, house.gate = {"new": {}}, asyncio.Event()
        house.announcer.announce()
        await asyncio.sleep(0)
        await house.announcer.stop()
        house.gate, house.wanted = None, {}
        house.start()
        assert await house.announce() == [("new", b""), ("old", b"")]

    run(work())


def test_many_calls_at_once_are_one_more(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.wanted, house.gate = {"a": {}}, asyncio.Event()
        house.announcer.announce()
        await asyncio.sleep(0)
        for _ in range(100):
            house.announcer.announce()
        house.gate.set()
        assert house.announcer._work is not None
        await house.announcer._work
        assert house.sent == [("a", b"{}")] * 2

    run(work())


@pytest.mark.parametrize("noted", ["", "{", "7", '{"a": 1}', "[1, null]", "\xff"])
def test_a_damaged_note_is_no_end(tmp_path: Path, noted: str) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.record.write_text(noted, "latin-1")
        house.wanted = {"a": {}}
        assert await house.announce() == [("a", b"{}")]
        assert json.loads(house.record.read_text()) == ["a"]

    run(work())


def test_a_disk_that_is_full_is_no_end(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(tmp_path)
        house.record.with_suffix(".new").mkdir()
        house.wanted = {"a": {}}
        assert await house.announce() == [("a", b"{}")]

    run(work())
