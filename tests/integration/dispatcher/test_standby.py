"""A dispatcher that waits, at a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from edgeslm.dispatcher.ack_log import Answered, encode_keys
from edgeslm.dispatcher.lease import encode_lease
from edgeslm.dispatcher.settings import parse_settings
from edgeslm.dispatcher.standby import Standby
from edgeslm.errors import BrokerError
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.fakes import make_key
from tests.support.pools import POOL


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.01)


def make_standby(url: str, answered: Answered) -> Standby:
    settings = parse_settings(f"pool: triage\nbroker: {{url: '{url}'}}\nname: here\n")
    return Standby(settings, "session", answered, is_first=True)


def test_it_remembers_what_the_one_at_work_has_answered_until_that_is_void(
    broker: Mosquitto, tmp_path: Path
) -> None:
    answered = Answered(tmp_path / "answered", 8)
    standby = make_standby(broker.url, answered)

    async def wait(app: App) -> None:
        waiting = asyncio.create_task(standby.wait())
        words: Iterable[tuple[bytes, set[bytes]]] = [
            (encode_keys([make_key(1), make_key(2)]), {make_key(1), make_key(2)}),
            (b"no list", {make_key(1), make_key(2)}),
            (encode_keys([make_key(3)]), {make_key(1), make_key(2), make_key(3)}),
            (b"", set()),
        ]
        await _until(lambda: broker.log.count("SUBACK to session.standby") == 2)
        for payload, known in words:
            app.publish(f"{POOL}/answered", payload)
            await _until(lambda known=known: set(answered) == known)  # type: ignore[misc]
        app.publish(f"{POOL}/lease", encode_lease(None, "there", 10.0))
        async with asyncio.timeout(WAIT_S):
            await waiting

    with App(broker.port) as app:
        app.publish(f"{POOL}/lease", encode_lease("run", "there", 3600.0), retain=True)
        asyncio.run(wait(app))
    answered.close()


def test_a_broker_without_mqtt_5_is_no_use(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_5 = b"MQTT\5" in await reader.read(1000)
        writer.write(bytes([0x20, 2, 0, int(is_5)]))  # CONNACK: unacceptable protocol version, or welcome
        while not is_5 and await reader.read(1000):
            pass
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        answered = Answered(tmp_path / "answered", 8)
        async with server, asyncio.timeout(WAIT_S):
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(BrokerError, match=r"speaks only MQTT 3\.1\.1"):
                await make_standby(f"mqtt://127.0.0.1:{port}", answered).wait()
        answered.close()

    asyncio.run(main())
