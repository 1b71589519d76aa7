"""Minimal nodes for tests: they answer without a model, and badly if a test wants it."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

from edgeslm.config.sections import Broker
from edgeslm.errors import Busy
from edgeslm.messages import Chunk, Request, Result
from edgeslm.mqtt.client import BusClient, BusListener, Will
from edgeslm.protocol.codec import (
    Rejected,
    StateName,
    Topics,
    encode_chunk,
    encode_result,
    encode_state,
    error_result,
    parse_request,
)
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from tests.support.apps import WAIT_S

REPLIES = ("edgeslm/v1/+/res/#",)


class NodeThread(BusListener):
    """An MQTT connection with its own thread and event loop, which publishes the state ``online``.

    ``connected`` subscribes and publishes the info document.
    """

    def __init__(self, url: str, name: str) -> None:
        self.topics = Topics(name)
        self._url = url
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._is_gone = False
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        self._bus = BusClient(
            Broker(url=self._url),
            self,
            client_id=self.topics.node,
            queue=64,
            packet_bytes=100_000,
            will=Will(self.topics.state, encode_state("offline", "b")),
            pauses_s=(0.05, 0.2),
        )
        await self._bus.start()
        await self._stop.wait()
        if not self._is_gone:
            await self._say("stopped")
        await self._bus.stop()

    def _say(self, state: StateName) -> asyncio.Future[None]:
        return self._bus.publish(OutgoingMessage(self.topics.state, encode_state(state, "b"), retain=True))


class SmallNode(NodeThread):
    """A node without deduplication. The task decides what it does:

    - ``label``, ``triage``: the label critical; ``echo``: the input as result; ``garbage``: an invalid result
    - ``stream``, ``chat``: as ``echo``, after a stream of its words
    - ``silent``: nothing; ``second``: as ``stream``, but the first delivery gets its first two words only
    - ``busy-once``: busy for a tenth of a second; ``busy``: busy for an hour
    """

    def __init__(self, url: str, name: str = "hall", *, replies: tuple[str, ...] = REPLIES) -> None:
        super().__init__(url, name)
        self.requests: list[Request | Rejected] = []
        self.deliveries: list[Delivery] = []
        self.told: list[Delivery] = []  # cancel and feedback
        self._replies = replies
        self._asked = threading.Event()

    def wait_for_request(self) -> None:
        assert self._asked.wait(WAIT_S)

    def publish(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        """Publishes; may be called from any thread."""

        def publish() -> None:
            self._bus.publish(OutgoingMessage(topic, payload, correlation=correlation))

        self._loop.call_soon_threadsafe(publish)

    def connected(self) -> None:
        self._bus.subscribe([self.topics.requests_filter, self.topics.cancel, self.topics.feedback])
        self._say("online").add_done_callback(lambda done: self._ready.set())

    def delivered(self, delivery: Delivery) -> None:
        if delivery.topic in (self.topics.cancel, self.topics.feedback):
            self.told.append(delivery)
            self._bus.ack(delivery)
            return
        self.deliveries.append(delivery)
        request = parse_request(
            delivery,
            task=self.topics.task_of(delivery.topic) or "",
            topics=self.topics,
            allowed_replies=self._replies,
            packet_limit=100_000,
        )
        self.requests.append(request)
        self._bus.ack(delivery)
        self._asked.set()
        payload = self._payload(request)
        if payload is not None:
            self._bus.publish(OutgoingMessage(request.reply_to, payload, correlation=request.correlation))

    def _payload(self, request: Request | Rejected) -> bytes | None:
        if isinstance(request, Rejected):
            return encode_result(error_result(request.id, request.task, request.error))
        is_first = [one.id for one in self.requests].count(request.id) == 1
        if request.task == "garbage":
            return b"no result"
        if request.task == "busy" or (request.task == "busy-once" and is_first):
            busy = Busy("too much", retry_after_ms=100 if request.task == "busy-once" else 3_600_000)
            return encode_result(error_result(request.id, request.task, busy))
        if request.task in ("stream", "chat", "second"):
            words = str(request.input).split()
            for seq, text in enumerate(words[:2] if request.task == "second" and is_first else words):
                chunk = encode_chunk(Chunk(request.id, seq, text))
                self._bus.publish(
                    OutgoingMessage(
                        Topics.stream(request.reply_to), chunk, qos=0, correlation=request.correlation
                    )
                )
        if request.task == "silent" or (request.task == "second" and is_first):
            return None
        made = {"label": "critical"} if request.task in ("label", "triage") else {"text": request.input}
        return encode_result(Result(request.id, request.task, "ok", made))
