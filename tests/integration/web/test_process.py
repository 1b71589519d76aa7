from __future__ import annotations

import asyncio
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeslm.console.wire import FROM_CONSOLE, Viewers
from edgeslm.errors import ConfigError
from edgeslm.ipc.codec import FrameError
from edgeslm.web.process import TO_WEB, WebProcess, check_installed
from tests.support.brokers import free_port
from tests.support.web_settings import settings_for


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed("api")
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(ConfigError, match=r"api: .*pip install '\.\[api\]' in a clone"):
        check_installed("api")
    check_installed("api.mcp", "mcp")
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ConfigError, match=r"api.mcp: .*pip install '\.\[mcp\]' in a clone"):
        check_installed("api.mcp", "mcp")


def test_nothing_but_messages_is_read_from_the_console() -> None:
    assert FROM_CONSOLE.decode(FROM_CONSOLE.encode(Viewers(1))) == Viewers(1)
    for data in (b"", b"[]", b"{}", b'{"kind": "viewers"}', b"cos\nsystem\n(S'true'\ntR.", b"\xff"):
        with pytest.raises(FrameError):
            FROM_CONSOLE.decode(struct.pack("!I", len(data)) + data)
    told = {"text": "ä\ud800", "part": [1, None]}
    assert TO_WEB.decode(TO_WEB.encode(told)) == told


class FakeListener:
    def begun(self) -> None:
        pass

    def heard(self, said: object) -> None:
        pass

    def lost(self) -> None:
        pass


def make_process(settings: dict[str, Any], listener: FakeListener, **more: Any) -> WebProcess:
    return WebProcess("console", "edgeslm.console.worker", FROM_CONSOLE, settings, listener, **more)


HOSTILE = """
import os, pickle, sys, time
from edgeslm.ipc.pipe import Pipe
from edgeslm.console.wire import *
from edgeslm.web.process import TO_WEB
pipe = Pipe(int(sys.argv[1]), FROM_CONSOLE, TO_WEB)
if os.path.exists({flag!r}):
    pipe.send(Listening("http://again"))
else:
    open({flag!r}, "w").close()
    {act}
time.sleep(600)
"""


@pytest.mark.parametrize(
    "act",
    [
        "os.write(pipe.fileno(), b'\\0\\0\\0\\x05\\x80\\x04N..')",
        "os.write(pipe.fileno(), b'\\xff' * 99)",
        'os.write(pipe.fileno(), b\'\\0\\0\\0\\x21\\0\\0\\0\\x1d\' + b\'["Ask",[1,"judge","text",[]]]\')',
    ],
    ids=["pickle", "long", "options"],
)
def test_a_hostile_console_is_replaced(tmp_path: Path, act: str) -> None:
    script = HOSTILE.format(flag=str(tmp_path / "flag"), act=act)

    async def scenario() -> None:
        console = make_process({}, FakeListener(), command=(sys.executable, "-c", script), again_s=0.01)
        await run_until(console, lambda: console.url == "http://again")

    asyncio.run(scenario())


async def run_until(console: WebProcess, holds: object) -> None:
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
        console = make_process(settings_for(port), FakeListener())
        await run_until(console, lambda: console.problem)
        assert console.problem == f"The console doesn't run: 127.0.0.1:{port}: Address already in use."
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (None, "{folder}/cert.pem: No such file or directory"),
        ("x", "{folder}/cert.pem and {folder}/key.pem must be"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, key: str | None, sentence: str) -> None:
    files = {name: str(tmp_path / name) for name in ("cert.pem", "key.pem")}
    for file in files.values() if key else ():
        Path(file).write_text(key or "")

    async def scenario() -> None:
        certificate = {"cert_file": files["cert.pem"], "key_file": files["key.pem"]}
        console = make_process({**settings_for(free_port()), **certificate}, FakeListener())
        await run_until(console, lambda: console.problem)
        assert sentence.format(folder=tmp_path) in (console.problem or "")

    asyncio.run(scenario())


def test_a_process_that_ends_is_started_again() -> None:
    starts: list[int | None] = []

    class Notes(FakeListener):
        def begun(self) -> None:
            starts.append(console.pid)

    console = make_process(settings_for(free_port()), Notes(), again_s=0.01)

    async def scenario() -> None:

        def has_come_again() -> bool:
            if console.url is not None and len(starts) == 1 and starts[0] is not None:
                os.kill(starts[0], 9)
            return len(starts) > 1 and console.url is not None

        await run_until(console, has_come_again)
        assert console.problem is None

    asyncio.run(scenario())
    assert len(set(starts)) == 2


def test_one_that_is_behind_is_told_nothing_more() -> None:
    reads_nothing = ("sh", "-c", "sleep 60")

    async def scenario() -> None:
        console = make_process(settings_for(1), FakeListener(), command=reads_nothing)
        running = asyncio.create_task(console.run())
        async with asyncio.timeout(60):
            while console.send("rows", rows=["x" * 10_000]):
                await asyncio.sleep(0)
        running.cancel()
        await console.stop()

    asyncio.run(scenario())
