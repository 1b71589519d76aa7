"""A process at the other end of a pipe: told things, stopped, killed, lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.ipc.codec import Frames
from edgeslm.ipc.process import CALM_S, MOST_PAUSE_S, Child, RestartBackoff

JSON = Frames(Any, 1_000_000)
ECHO = """
import struct, sys
from pathlib import Path
from typing import Any
from edgeslm.ipc.codec import Frames
from edgeslm.ipc.pipe import Pipe
JSON = Frames(Any, 1_000_000)
pipe = Pipe(int(sys.argv[1]), JSON, JSON)
pipe.send(["arguments", *sys.argv[2:]])
while True:
    try:
        value = pipe.receive()
    except EOFError:
        {at_end}
    if value == "die":
        sys.exit(3)
    if value == "rave":
        pipe._socket.sendall(struct.pack("!I", 9) + b"not frame")
    else:
        pipe.send(value)
"""


class Heard:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.lost: list[str] = []
        self.child = Child(JSON, JSON, self.take, self.lost.append)

    def take(self, value: Any) -> None:
        if value == "poison":
            raise IndexError(value)
        self.values.append(value)

    async def start(self, at_end: str = "sys.exit()") -> None:
        await self.child.start((sys.executable, "-c", ECHO.format(at_end=at_end)), ["a", "b"])
        await self.until(lambda: bool(self.values))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.005)


def play(scene: Callable[[Heard], Awaitable[None]]) -> None:
    async def run() -> None:
        heard = Heard()
        await scene(heard)
        await heard.child.stop(60)

    asyncio.run(run())


def test_it_is_told_things_and_answers() -> None:
    async def scene(heard: Heard) -> None:
        await heard.start()
        heard.child.send({"x": 1})
        await heard.until(lambda: len(heard.values) == 2)
        assert heard.values == [["arguments", "a", "b"], {"x": 1}]
        assert heard.child.is_linked and heard.child.starts == 1
        assert not await heard.child.stop(60)
        assert (heard.child.pid, heard.child.is_linked, heard.lost) == (None, False, [])
        heard.child.send("nobody is there")

    play(scene)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_one_that_ends_by_itself_is_lost_once(how: str) -> None:
    async def scene(heard: Heard) -> None:
        await heard.start()
        if how == "exit":
            heard.child.send("die")
        else:
            heard.child.kill()
        await heard.until(lambda: bool(heard.lost))
        # One that exits has closed its end before it is gone: it may be the kill that ends it.
        assert heard.lost in ([["signal 9"]] if how == "kill" else [["signal 9"], ["exit status 3"]])
        assert not heard.child.is_linked
        await heard.start()
        assert heard.child.starts == 2

    play(scene)


@pytest.mark.parametrize("word", ["rave", "poison"])
def test_one_that_says_what_cant_be_taken_is_killed_and_can_be_replaced(
    word: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(heard: Heard) -> None:
        await heard.start(at_end="import time; time.sleep(600)")
        pid = heard.child.pid
        heard.child.send(word)
        await heard.until(lambda: bool(heard.lost))
        assert heard.lost == ["it sent an invalid message"]
        assert (heard.child.pid, heard.child.is_linked) == (None, False)
        assert not Path(f"/proc/{pid}").exists()
        await heard.start()
        heard.child.send("still here")
        await heard.until(lambda: heard.values[-1] == "still here")

    play(scene)
    assert "a child process sent an invalid message" in caplog.text
    assert "poison" not in caplog.text


def test_one_that_does_not_end_is_killed() -> None:
    async def scene(heard: Heard) -> None:
        await heard.start(at_end="import time; time.sleep(600)")
        assert await heard.child.stop(0.1)
        assert heard.lost == []

    play(scene)


def test_one_that_cannot_be_started_leaves_nothing() -> None:
    async def scene(heard: Heard) -> None:
        with pytest.raises(OSError):
            await heard.child.start(("/nowhere/at/all",), [])
        assert (heard.child.pid, heard.child.is_linked, heard.child.starts) == (None, False, 0)
        assert heard.child.bury() == "stopped"

    play(scene)


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_calm_life() -> None:
    backoff = RestartBackoff(2.0)
    assert [backoff.next_s() for _ in range(7)] == [2.0, 4.0, 8.0, 16.0, 32.0, MOST_PAUSE_S, MOST_PAUSE_S]
    assert backoff.next_s(CALM_S) == MOST_PAUSE_S
    assert [backoff.next_s(CALM_S + 1.0), backoff.next_s()] == [2.0, 4.0]
