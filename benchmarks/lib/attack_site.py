"""Target of the attacks: a broker, an installed node with real models, and a client that sends requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.lib.chaos_victims import Broker, children
from edgeslm.client import Client
from edgeslm.protocol.codec import Topics

NODE = "attacked"
TOPICS = Topics(NODE)
START_S = 180.0
LOOK_S = 0.05
WAIT_S = 60.0
SMALL = "smollm2-135m-int4"
MINILM = "minilm-l6-int8"
COMMAND = (sys.executable, "-P", "-m", "edgeslm")
RUN = (*COMMAND, "run")


def configuration(url: str, starter: Path, folder: Path) -> dict[str, Any]:
    """Doors of all kinds: requests, routes with templates, watched folders of documents and of updates."""
    small, minilm = str((starter / SMALL).resolve()), str((starter / MINILM).resolve())
    block = "{% set y %}{% for a in payload.l %}{{ payload.t }}{% endfor %}{% endset %}{{ y }}"
    return {
        "node": NODE,
        "broker": {"url": url},
        "models": {
            "desk": {"bundle": small, "threads": 1},
            "small": {"bundle": small, "threads": 1},
            "minilm": {"bundle": minilm, "threads": 1},
        },
        "tasks": {
            "triage": {"kind": "classify", "model": "desk", "labels": ["normal", "critical"]},
            "fields": {
                "kind": "extract",
                "model": "small",
                "verbatim": True,
                "allow": ["schema", "max_tokens", "deadline_ms"],
                "schema": {"type": "object", "properties": {"machine": {"type": "string"}}},
            },
            "say": {"kind": "generate", "model": "small", "allow": ["max_tokens", "stream", "deadline_ms"]},
            "vector": {"kind": "embed", "model": "minilm"},
            "find": {"kind": "search", "knowledge": ["manuals"]},
        },
        "knowledge": {
            "manuals": {
                "path": str(folder / "manuals.sqlite"),
                "encoder": "minilm",
                "watch": [str(folder / "documents")],
            },
            "log": {"path": str(folder / "log.sqlite"), "encoder": "minilm"},
        },
        "routes": [
            {"from": "shop/+/block", "task": "triage", "input": block, "to": "shop/{{ topic[1] }}/label"},
            {"from": "shop/log", "remember": "log"},
        ],
        "updates": {"watch": str(folder / "incoming"), "budget_bytes": 300_000_000, "trial_s": 2},
        "prepare": "never",
        "state_dir": str(folder / "state"),
    }


class App:
    """A plain MQTT 5 client that counts what comes."""

    def __init__(self, port: int) -> None:
        self._latest: dict[str, bytes] = {}
        self._counts: dict[str, int] = {}
        self._bytes = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_connect = self._on_connect
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not subscribed.wait(30):
            raise SystemExit("the broker did not confirm a subscription")

    def publish(self, topic: str, payload: bytes | str, *, qos: int = 1, **properties: Any) -> None:
        """:param properties: of the packet, by paho's names."""
        packed = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in properties.items():
            setattr(packed, name, value)
        self._client.publish(topic, payload, qos, properties=packed).wait_for_publish(30)

    def latest(self, topic: str) -> bytes | None:
        return self._latest.get(topic)

    def count(self, topic: str) -> int:
        return self._counts.get(topic, 0)

    def received_bytes(self) -> int:
        """Of all messages so far, with their topics and Correlation Data."""
        return self._bytes

    def wait_for(self, topic: str, seen: int, timeout_s: float = WAIT_S) -> Any:
        """The next JSON on a topic of which ``seen`` messages came before; None if none comes."""
        give_up_at = time.monotonic() + timeout_s
        while self.count(topic) <= seen:
            if time.monotonic() > give_up_at:
                return None
            time.sleep(0.02)
        return json.loads(self._latest[topic])

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        channels = ("state", "dead", "res/#")  # no requests: some would end the connection of this client too
        client.subscribe([("shop/#", 1), *((f"edgeslm/v1/+/{channel}", 1) for channel in channels)])

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        topic = message.topic
        self._bytes += len(topic) + len(message.payload)
        self._bytes += len(getattr(message.properties, "CorrelationData", b""))
        self._latest[topic] = bytes(message.payload)
        self._counts[topic] = self._counts.get(topic, 0) + 1


class NodeProcess:
    """``edgeslm run`` in ``folder`` by a configuration."""

    def __init__(
        self, app: App, configuration: Mapping[str, Any], folder: Path, command: Sequence[str] = RUN
    ) -> None:
        self._app = app
        self._command = command
        self._topics = Topics(str(configuration["node"]))
        self.folder = folder
        self.log = folder / "node.log"
        self.log.touch()
        self.file = folder / "config.yaml"
        self.file.write_text(yaml.safe_dump(dict(configuration)))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise SystemExit("the node was not started")
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def state(self) -> str | None:
        said = self._app.latest(self._topics.state)
        return None if said is None else str(json.loads(said).get("state"))

    def start(self) -> None:
        """A new process, until it is online."""
        seen = self._app.count(self._topics.state)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        give_up_at = time.monotonic() + START_S
        while self._app.count(self._topics.state) == seen or self.state() != "online":
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"the node didn't start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def freeze_children(self) -> None:
        for pid in list(family(self.pid))[1:]:
            os.kill(pid, signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is None:
            return
        for pid in [*family(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is None or not self.is_alive():
            return
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()

    def words(self, since: int = 0) -> str:
        """What it logged from that byte on."""
        return self.log.read_bytes()[since:].decode(errors="replace")

    def wait_for_words(self, text: str, since: int, timeout_s: float = WAIT_S) -> str:
        """The line with ``text``; empty if none comes."""
        give_up_at = time.monotonic() + timeout_s
        while time.monotonic() < give_up_at:
            for line in self.words(since).splitlines():
                if text in line:
                    return line
            time.sleep(0.1)
        return ""

    def memory(self) -> int:
        """Resident bytes of the parent."""
        return resident(self.pid)


class Site:
    """One node for many attacks, its broker, and what it keeps. ``folder`` holds all its files."""

    def __init__(self, starter: Path, folder: Path) -> None:
        self.starter = starter
        self.folder = folder
        for name in ("documents", "incoming"):
            (folder / name).mkdir()
        self.broker = Broker(folder / "broker", "balanced")
        self.broker.start()
        self.url = f"mqtt://127.0.0.1:{self.broker.port}"
        self.app = App(self.broker.port)
        self.settings = configuration(self.url, starter, folder)
        self.node = NodeProcess(self.app, self.settings, folder)

    def smaller(self, name: str, folder: Path, **changes: Any) -> dict[str, Any]:
        """The configuration of another node at the same broker, with one task."""
        return {
            "node": name,
            "broker": {"url": self.url},
            "models": {"desk": self.settings["models"]["desk"]},
            "tasks": {"triage": self.settings["tasks"]["triage"]},
            "prepare": "never",
            "state_dir": str(folder / "state"),
            **changes,
        }

    def client(self) -> Client:
        return Client(self.url, NODE)

    def stop(self) -> None:
        self.node.stop()
        self.app.close()
        self.broker.stop()


class Bystander(threading.Thread):
    """Asks the node all the time; ``slowest_s`` is how long it waited for the slowest answer."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="bystander", daemon=True)
        self._site = site
        self._ended = threading.Event()
        self._asked_at: float | None = None
        self._slowest_s = 0.0
        self.answers = 0

    def run(self) -> None:
        with self._site.client() as client:
            while not self._ended.wait(0.1):
                self._asked_at = time.monotonic()
                with contextlib.suppress(Exception):  # what isn't answered is seen by its time
                    client.request("triage", f"press {self.answers % 7}: all quiet", timeout=120)
                    self.answers += 1
                self._slowest_s = max(self._slowest_s, time.monotonic() - self._asked_at)
                self._asked_at = None

    def slowest_s(self) -> float:
        """Since the last call."""
        asked_at, slowest = self._asked_at, self._slowest_s
        self._slowest_s = 0.0
        return max(slowest, 0.0 if asked_at is None else time.monotonic() - asked_at)

    def end(self) -> None:
        self._ended.set()


class Memory(threading.Thread):
    """Looks at the resident memory of the node's processes every 50 ms."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="memory", daemon=True)
        self._site = site
        self._ended = threading.Event()
        self.parent_bytes = 0
        self.child_bytes = 0
        """The largest of any child."""

    def run(self) -> None:
        while not self._ended.wait(LOOK_S):
            if not self._site.node.is_alive():
                continue
            own, *others = [resident(pid) for pid in family(self._site.node.pid)] or [0]
            self.parent_bytes = max(self.parent_bytes, own)
            self.child_bytes = max([self.child_bytes, *others])

    def begin(self) -> None:
        self.parent_bytes = self.child_bytes = 0

    def end(self) -> None:
        self._ended.set()


def family(pid: int) -> Iterator[int]:
    """The process, then what it has started."""
    yield pid
    for child in children(pid):
        yield from family(child)


def resident(pid: int) -> int:
    """Bytes."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
