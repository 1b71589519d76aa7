"""A real daemon with real models at a real broker on this machine, asked over MQTT."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgeslm.client import Client
from edgeslm.demo.broker import start_broker
from edgeslm.errors import EdgeslmError
from edgeslm.messages import Result

NODE = "bench"
TIMEOUT_S = 600.0
START_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """``results`` in the order of the texts, and how long they took together."""

    results: Sequence[Result]
    seconds: float


@contextmanager
def served(parts: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The daemon with ``models`` and ``tasks``. :return: the broker's address and the state folder."""
    with tempfile.TemporaryDirectory(prefix="served-") as name:
        folder = Path(name)
        with start_broker(folder) as broker:
            config = {
                "node": NODE,
                "broker": {"url": broker.url},
                "state_dir": str(folder / "state"),
                "log_level": "warning",
                **parts,
            }
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            command = [sys.executable, "-m", "edgeslm", "run", str(folder / "config.yaml")]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(os.environ))
            try:
                yield broker.url, folder / "state"
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def ask(url: str, task: str, texts: Sequence[str], in_flight: int) -> Asked:
    """Asks all texts, so many at a time, once the node is there.

    :raises EdgeslmError: the node can't be reached, or an answer is an error.
    """
    return asyncio.run(_ask(url, task, texts, in_flight))


async def _ask(url: str, task: str, texts: Sequence[str], in_flight: int) -> Asked:
    results: list[Result | None] = [None] * len(texts)
    left = iter(range(len(texts)))
    async with Client(url, NODE) as client:
        await _until_online(client)
        await client.request_async(task, texts[0], timeout=TIMEOUT_S)  # warms up

        async def work() -> None:
            for place in left:
                results[place] = await client.request_async(task, texts[place], timeout=TIMEOUT_S)

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        seconds = time.monotonic() - started
    found = [result for result in results if result is not None]
    for result in found:
        if result.error is not None:
            raise EdgeslmError(f"{task}: {result.error.code}: {result.error.message}")
    return Asked(found, seconds)


async def _until_online(client: Client) -> None:
    give_up_at = time.monotonic() + START_S
    while client.node_state != "online":
        if time.monotonic() > give_up_at:
            raise EdgeslmError(f"the daemon was not online within {START_S:g} s")
        await asyncio.sleep(0.05)


def health(url: str) -> dict[str, Any]:
    """The node's retained ``health``, the next one that it publishes."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    host, _, port = url.removeprefix("mqtt://").partition(":")
    said: list[dict[str, Any]] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def take(_: Any, __: Any, message: Any) -> None:
        if not message.retain:
            said.append(json.loads(message.payload))

    client.on_message = take
    client.connect(host, int(port or 1883))
    client.subscribe(f"edgeslm/v1/{NODE}/health", 1)
    give_up_at = time.monotonic() + START_S
    while not said and time.monotonic() < give_up_at:
        client.loop(0.2)
    client.disconnect()
    if not said:
        raise EdgeslmError(f"the daemon published no health within {START_S:g} s")
    return said[-1]
