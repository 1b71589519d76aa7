from __future__ import annotations

import asyncio
import importlib.util
import os
import stat
from pathlib import Path

import pytest

from edgeslm.console import process
from edgeslm.console.process import ConsoleProcess, check_installed, read_token
from edgeslm.console.wire import FROM_CONSOLE, FROM_NODE
from edgeslm.errors import ConfigError
from edgeslm.surroundings import Console
from tests.brokers import free_port
from tests.console.settings import settings_for


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    token = read_token(Console(), tmp_path / "state")
    assert len(token) >= 32
    assert read_token(Console(), tmp_path / "state") == token
    assert stat.S_IMODE((tmp_path / "state/console-token").stat().st_mode) == 0o600


def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    section = Console(token_file=file)
    with pytest.raises(ConfigError, match=r"console\.token_file.*can't be read: No such file"):
        read_token(section, tmp_path)
    for text in ("", "short\n", "\n" + "a" * 40):
        file.write_text(text)
        with pytest.raises(ConfigError, match="16 characters or more"):
            read_token(section, tmp_path)
    file.write_text("a" * 16 + "\nmore\n")
    assert read_token(section, tmp_path) == "a" * 16


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'edgeslm\[console\]'"):
        check_installed()


def test_nothing_but_messages_is_read_from_the_console() -> None:
    message = FROM_CONSOLE.decode(bytearray(b'{"kind": "viewers", "count": 1}'))
    assert message == {"kind": "viewers", "count": 1}
    for data in (b"", b"[]", b"{}", b'{"kind": 1}', b"cos\nsystem\n(S'true'\ntR.", b"\xff"):
        with pytest.raises(ValueError):
            FROM_CONSOLE.decode(bytearray(data))
    assert FROM_NODE.encode({"text": "ä\ud800"}) == b'{"text": "\\u00e4\\ud800"}'


async def run_until(console: ConsoleProcess, holds: object) -> None:
    running = asyncio.create_task(console.run())
    try:
        async with asyncio.timeout(60):
            while not holds():  # type: ignore[operator]
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await console.stop()


def test_a_port_that_is_taken_is_a_problem_and_no_end() -> None:
    async def scenario() -> None:
        port = free_port()
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
        console = ConsoleProcess(settings_for(port), lambda message: None, lambda: None)
        await run_until(console, lambda: console.problem)
        assert console.problem == f"The console doesn't run: 127.0.0.1:{port}: Address already in use."
        server.close()

    asyncio.run(scenario())


def test_a_process_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "AGAIN_S", 0.01)
    starts: list[int | None] = []

    async def scenario() -> None:
        console = ConsoleProcess(
            settings_for(free_port()), lambda message: None, lambda: starts.append(console.pid)
        )

        def has_come_again() -> bool:
            if console.url is not None and len(starts) == 1 and starts[0] is not None:
                os.kill(starts[0], 9)
            return len(starts) > 1 and console.url is not None

        await run_until(console, has_come_again)
        assert console.problem is None

    asyncio.run(scenario())
    assert len(set(starts)) == 2


def test_one_that_is_behind_is_told_nothing_more() -> None:
    async def scenario() -> None:
        command = ("sh", "-c", "sleep 60")  # reads nothing
        console = ConsoleProcess(settings_for(1), lambda message: None, lambda: None, command=command)
        running = asyncio.create_task(console.run())
        async with asyncio.timeout(60):
            while console.send("rows", rows=["x" * 10_000]):
                await asyncio.sleep(0)
        running.cancel()
        await console.stop()

    asyncio.run(scenario())
