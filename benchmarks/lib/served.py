"""A real daemon with real models at a real broker, and requests to it over MQTT."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lib.load import START_S, Ask, answer_all, until_online
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client
from edgeslm.errors import EdgeslmError
from edgeslm.messages import Result

NODE = "bench"


@dataclass(frozen=True, slots=True)
class Asked:
    """``results`` in the order of the texts, and how long they took together."""

    results: Sequence[Result]
    seconds: float


@contextmanager
def node(
    url: str,
    folder: Path,
    parts: Mapping[str, Any],
    name: str = NODE,
    prefix: Callable[[Sequence[str]], Sequence[str]] = lambda command: command,
) -> Iterator[None]:
    """The daemon at a broker, with its configuration and its state in ``folder``; ``prefix`` changes its
    command line."""
    config = {
        "node": name,
        "broker": {"url": url},
        "prepare": "never",
        "state_dir": str(folder / "state"),
        "log_level": "warning",
        **parts,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "edgeslm", "run", str(folder / "config.yaml")]
    process = subprocess.Popen(prefix(command), stdin=subprocess.DEVNULL, env=dict(os.environ))
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def served(parts: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The daemon with ``models`` and ``tasks``. :return: the broker's address and the state folder."""
    with tempfile.TemporaryDirectory(prefix="served-") as name:
        folder = Path(name)
        with start_broker(folder) as broker, node(broker.url, folder, parts):
            yield broker.url, folder / "state"


def ask(url: str, task: str, texts: Sequence[str], in_flight: int) -> Asked:
    """Asks all texts, so many at a time, once the node is there.

    :raises EdgeslmError: the node can't be reached, or an answer is an error.
    """
    return asyncio.run(_ask(url, [Ask(task, text) for text in texts], in_flight))


async def _ask(url: str, asks: Sequence[Ask], in_flight: int) -> Asked:
    async with Client(url, NODE) as client:
        await until_online(client)
        await answer_all(client, asks[:1], 1)  # warms up
        answers, seconds = await answer_all(client, asks, in_flight)
    for answer in answers:
        if answer.result.error is not None:
            error = answer.result.error
            raise EdgeslmError(f"{answer.result.task}: {error.code}: {error.message}")
    return Asked([answer.result for answer in answers], seconds)


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
