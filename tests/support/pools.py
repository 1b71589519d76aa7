"""Pools for tests: members that answer without a model, and ``edgeslm dispatch``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeslm.errors import Cancelled, RequestError
from edgeslm.messages import Chunk, Request, Result
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.protocol.codec import (
    StateName,
    Topics,
    encode_chunk,
    encode_result,
    error_result,
    parse_cancel,
    parse_request,
)
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.storage.journal import request_key
from tests.support.apps import WAIT_S
from tests.support.mqtt.nodes import Wire
from tests.support.small_nodes import NodeThread

POOL = "edgeslm/v1/pool/triage"
REPLIES = ("edgeslm/v1/pool/+/res/#",)

Answers = Callable[[Request], "dict[str, Any] | RequestError | None"]
"""A member's answer to a request: a result, an error, or None to leave it open until ``tell``."""


class Member(NodeThread):
    """A node with a persistent session that deduplicates requests, as nodes do."""

    def __init__(
        self,
        url: str,
        name: str,
        answers: Answers | None = None,
        *,
        kinds: Mapping[str, str] | None = None,
        **pool: Any,
    ) -> None:
        super().__init__(url, name)
        self.answers: Answers = answers or (lambda request: {"label": name})
        self.runs: list[Request] = []
        self.cancels: list[bytes] = []
        self._pool = {"name": "triage", "tasks": ["label"], "by": "dispatcher", **pool}
        self._kinds = {"label": "classify", **(kinds or {})}
        self._known: dict[bytes, bytes | None] = {}
        self._open: dict[bytes, tuple[Request, bytes]] = {}

    def die(self) -> None:
        """Breaks the connection without DISCONNECT, for good."""

        def die() -> None:
            self._is_gone = True
            self._bus.may_connect.clear()
            self._wire.cut()
            self._stop.set()

        self._loop.call_soon_threadsafe(die)
        self._thread.join()

    async def _run(self) -> None:
        async with Wire(BrokerAddress.parse(self._url).port) as self._wire:
            self._url = self._wire.url
            await super()._run()

    def tell(self) -> None:
        """Answers the open requests."""

        def tell() -> None:
            for key, (request, _) in list(self._open.items()):
                self._send(key, request, {"label": self.topics.node})

        self._loop.call_soon_threadsafe(tell)

    def say(self, state: StateName) -> None:
        self._loop.call_soon_threadsafe(self._say, state)

    def connected(self) -> None:
        self._bus.subscribe([self.topics.requests_filter, self.topics.cancel])
        info = {
            "protocol": 1,
            "pool": self._pool,
            "tasks": {task: {"kind": kind, "model": "small"} for task, kind in self._kinds.items()},
            "models": {"small": {"digest": "sha256:1f3a"}},
        }
        self._bus.publish(OutgoingMessage(self.topics.info, json.dumps(info).encode(), retain=True))
        self._say("online").add_done_callback(lambda done: self._ready.set())

    def delivered(self, delivery: Delivery) -> None:
        self._bus.ack(delivery)
        if delivery.topic == self.topics.cancel:
            cancel = parse_cancel(delivery.payload, delivery.correlation)
            self.cancels.append(cancel.correlation or b"")
            for key, (one, _) in list(self._open.items()):
                if one.correlation == cancel.correlation:
                    self._send(key, one, Cancelled("as you wish"))
            return
        task = self.topics.task_of(delivery.topic) or ""
        parsed = parse_request(
            delivery, task=task, topics=self.topics, allowed_replies=REPLIES, packet_limit=100_000
        )
        assert isinstance(parsed, Request)
        request = parsed
        key = request_key(request.reply_to, request.correlation or b"", task, delivery.payload)
        if key in self._known:
            if (payload := self._known[key]) is not None:
                self._bus.publish(OutgoingMessage(request.reply_to, payload, correlation=request.correlation))
            return
        self.runs.append(request)
        self._known[key] = None
        self._open[key] = request, delivery.payload
        if request.options.get("stream"):
            for seq, word in enumerate(str(request.input).split()):
                chunk = encode_chunk(Chunk(request.id, seq, word))
                topic = Topics.stream(request.reply_to)
                self._bus.publish(OutgoingMessage(topic, chunk, qos=0, correlation=request.correlation))
        made = self.answers(request)
        if made is not None:
            self._send(key, request, made)

    def _send(self, key: bytes, request: Request, made: dict[str, Any] | RequestError) -> None:
        self._open.pop(key, None)
        if isinstance(made, RequestError):
            result = error_result(request.id, request.task, made)
        else:
            result = Result(request.id, request.task, "ok", made, timings_ms={"total": 10.0, "queue": 0.0})
        payload = encode_result(result)
        if result.error is None or result.error.code != "busy":
            self._known[key] = payload
        else:
            del self._known[key]
        self._bus.publish(OutgoingMessage(request.reply_to, payload, correlation=request.correlation))


class DispatcherProcess:
    """``edgeslm dispatch`` with its state folder and output in ``folder``."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.file = folder / "dispatch.json"  # JSON is valid YAML
        own = {"pool": "triage", "broker": {"url": url}, "state_dir": str(folder / "state"), "lease_s": 2.0}
        self.file.write_text(json.dumps({**own, "name": folder.name, **settings}))
        self._words = folder / "words.txt"

    def __enter__(self) -> DispatcherProcess:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self.kill()

    @property
    def words(self) -> str:
        return self._words.read_text()

    def start(self) -> None:
        with self._words.open("ab") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgeslm", "dispatch", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stops the process until :meth:`resume`; its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def request_stop(self) -> None:
        self._process.terminate()

    def terminate(self) -> int:
        self.request_stop()
        return self._process.wait(WAIT_S)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None
