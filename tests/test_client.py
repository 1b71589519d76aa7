"""The client for apps, over a real broker, against a small node that answers without a model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bus.client import BusClient, Delivery
from edgeslm.bus.protocol import (
    Rejected,
    Topics,
    encode_chunk,
    encode_result,
    encode_state,
    error_result,
    parse_request,
)
from edgeslm.client import Client
from edgeslm.errors import BrokerError, ProtocolError, RequestError, TimedOut, TooLarge
from edgeslm.messages import Chunk, Request, Result
from edgeslm.sections import Broker
from tests.brokers import Mosquitto, free_port

REPLIES = ("edgeslm/v1/+/res/#",)


class SmallNode:
    """A node whose tasks are ``echo``, ``stream``, ``silent`` and ``garbage``; it has a thread of its own."""

    def __init__(self, url: str, name: str = "hall", *, replies: tuple[str, ...] = REPLIES) -> None:
        self.topics = Topics(name)
        self.requests: list[Request | Rejected] = []
        self.deliveries: list[Delivery] = []
        self._url = url
        self._replies = replies
        self._ready = threading.Event()
        self._asked = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    def __enter__(self) -> SmallNode:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def wait_for_request(self) -> None:
        assert self._asked.wait(30)

    def publish(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        """From any thread."""

        def publish() -> None:
            self._bus.publish(topic, payload, qos=1, correlation=correlation)

        self._loop.call_soon_threadsafe(publish)

    async def _run(self) -> None:
        self._bus = BusClient(
            Broker(url=self._url),
            client_id=self.topics.node,
            queue=64,
            packet_bytes=100_000,
            will=(self.topics.state, encode_state("offline", "b")),
            on_delivery=self._answer,
            on_connect=self._announce,
            first_pause_s=0.05,
            longest_pause_s=0.2,
        )
        await self._bus.start()
        await self._stop.wait()
        await self._bus.publish(self.topics.state, encode_state("stopped", "b"), qos=1, retain=True)
        await self._bus.stop()

    def _announce(self) -> None:
        self._bus.subscribe([self.topics.requests_filter])
        online = self._bus.publish(self.topics.state, encode_state("online", "b"), qos=1, retain=True)
        online.add_done_callback(lambda done: self._ready.set())

    def _answer(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        request = parse_request(
            delivery.payload,
            task=self.topics.task_of(delivery.topic) or "",
            topics=self.topics,
            allowed_replies=self._replies,
            packet_limit=100_000,
            now=delivery.received_at,
            response_topic=delivery.response_topic,
            correlation=delivery.correlation,
            expiry_s=delivery.expiry_s,
            size=delivery.size,
        )
        self.requests.append(request)
        self._bus.ack(delivery)
        self._asked.set()
        if request.task == "silent":
            return
        if isinstance(request, Rejected):
            payload = encode_result(error_result(request.id, request.task, request.error))
        else:
            payload = self._payload(request)
        self._bus.publish(request.reply_to, payload, qos=1, correlation=request.correlation)

    def _payload(self, request: Request) -> bytes:
        if request.task == "garbage":
            return b"no result"
        if request.task == "stream":
            for seq, text in enumerate(str(request.input).split()):
                chunk = encode_chunk(Chunk(request.id, seq, text))
                self._bus.publish(
                    Topics.stream(request.reply_to), chunk, qos=0, correlation=request.correlation
                )
        return encode_result(Result(request.id, request.task, "ok", {"text": request.input}))


@pytest.fixture
def node(broker: Mosquitto) -> Iterator[SmallNode]:
    with SmallNode(broker.url) as node:
        yield node


@pytest.fixture
def client(broker: Mosquitto, node: SmallNode) -> Iterator[Client]:
    with Client(broker.url, "hall") as client:
        yield client


def test_a_request_and_its_result(client: Client, node: SmallNode) -> None:
    result = client.request("echo", "Grüße", {"max_tokens": 5}, timeout=30)
    assert (result.task, result.status, result.result) == ("echo", "ok", {"text": "Grüße"})
    request = node.requests[0]
    assert isinstance(request, Request)
    assert request.options == {"max_tokens": 5}
    assert request.reply_to.startswith("edgeslm/v1/hall/res/echo/app-")
    assert node.deliveries[0].expiry_s is not None
    assert 25 <= node.deliveries[0].expiry_s <= 30


def test_an_object_as_input(client: Client) -> None:
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    assert client.request("echo", messages, timeout=30).result == {"text": messages}


def test_streaming(client: Client, node: SmallNode) -> None:
    chunks: list[Chunk] = []
    result = client.request("stream", "one two three", timeout=30, on_chunk=chunks.append)
    assert [(chunk.seq, chunk.text) for chunk in chunks] == [(0, "one"), (1, "two"), (2, "three")]
    assert result.result == {"text": "one two three"}
    request = node.requests[0]
    assert isinstance(request, Request)
    assert request.options == {"stream": True}


def test_an_error_result_is_a_result(client: Client) -> None:
    result = client.request("echo", "a", {"max_token": 5}, timeout=30)
    assert result.status == "error"
    assert result.error is not None
    assert result.error.code == "invalid_request"


def test_requests_of_several_threads_get_their_own_results(client: Client) -> None:
    texts = [f"text {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda text: client.request("echo", text, timeout=30).result, texts)
    assert list(results) == [{"text": text} for text in texts]


def test_a_refused_reply_topic_is_an_answer_too(broker: Mosquitto) -> None:
    with SmallNode(broker.url, replies=("elsewhere/#",)), Client(broker.url, "hall") as client:
        result = client.request("echo", "a", timeout=30)
    assert result.error is not None
    assert "reply topic" in result.error.message


def test_no_result_in_time_says_how_the_node_is(client: Client) -> None:
    with pytest.raises(TimedOut, match=r"within 0\.5 s; the node 'hall' is online"):
        client.request("silent", "a", timeout=0.5)
    assert client.request("echo", "a", timeout=30).status == "ok"


def test_a_stopped_node_has_its_requests_kept(broker: Mosquitto) -> None:
    with SmallNode(broker.url):
        pass
    with Client(broker.url, "hall") as client:
        with pytest.raises(TimedOut, match="is stopped"):
            client.request("echo", "a", timeout=0.5)
        assert client.node_state == "stopped"


def test_a_node_that_was_never_there_is_said_at_once(broker: Mosquitto) -> None:
    with Client(broker.url, "hal") as client, pytest.raises(BrokerError, match="No node 'hal' listens"):
        client.request("echo", "a", timeout=300)


def test_what_is_no_result_raises(client: Client) -> None:
    with pytest.raises(ProtocolError, match="isn't a result"):
        client.request("garbage", "a", timeout=30)


@pytest.mark.parametrize("task", ["", "a/b", "+"])
def test_a_task_is_one_level_of_a_topic(client: Client, task: str) -> None:
    with pytest.raises(RequestError):
        client.request(task, "a", timeout=30)
    assert client.request("echo", "a", timeout=30).status == "ok"


def test_more_than_the_broker_takes(make_broker: Callable[..., Mosquitto]) -> None:
    broker = make_broker("max_packet_size 2000\n")
    with SmallNode(broker.url), Client(broker.url, "hall") as client:
        with pytest.raises(TooLarge, match="the broker takes 2000"):
            client.request("echo", "x" * 3000, timeout=30)
        assert client.request("echo", "a", timeout=30).status == "ok"


def test_a_result_that_comes_while_the_connection_is_broken_is_not_lost(
    make_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = make_broker("persistence true\nautosave_on_changes true\nautosave_interval 1\n", folder=tmp_path)
    with SmallNode(broker.url) as node, Client(broker.url, "hall") as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.request, "silent", "a", timeout=60)
        node.wait_for_request()
        broker.kill()
        broker.start()
        request = node.requests[0]
        assert isinstance(request, Request)
        payload = encode_result(Result(request.id, "silent", "ok", {"text": "late"}))
        node.publish(request.reply_to, payload, request.correlation)
        assert waiting.result(60).result == {"text": "late"}


def test_a_broker_that_is_not_there() -> None:
    with (
        pytest.raises(BrokerError, match="Nothing listens at"),
        Client(f"mqtt://127.0.0.1:{free_port()}", "hall"),
    ):
        pass


def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(BrokerError, match="isn't open"):
        Client("mqtt://127.0.0.1", "hall").request("echo", "a")


def test_close_ends_what_waits(broker: Mosquitto, node: SmallNode) -> None:
    client = Client(broker.url, "hall")
    client.open()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.request, "silent", "a", timeout=60)
        node.wait_for_request()
        client.close()
        with pytest.raises(BrokerError, match="closed"):
            waiting.result(30)
    client.close()


def test_it_needs_nothing_of_what_a_node_needs() -> None:
    program = (
        "import sys\n"
        "import edgeslm.client\n"
        "heavy = ['pydantic', 'yaml', 'numpy', 'onnxruntime', 'onnxruntime_genai', 'jinja2', 'jsonschema']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_is_small_enough_to_describe() -> None:
    public: dict[str, Any] = {name: value for name, value in vars(Client).items() if not name.startswith("_")}
    assert set(public) == {"open", "close", "request", "node_state"}
