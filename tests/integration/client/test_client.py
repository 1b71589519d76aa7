"""The client for apps, over a real broker, against a small node that answers without a model."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import edgeslm.client
from edgeslm.client import Client, Options
from edgeslm.client import client as module
from edgeslm.client.pending_request import Room
from edgeslm.client.session import ClientSession, Inbox
from edgeslm.errors import (
    REQUEST_ERRORS,
    BrokerError,
    Busy,
    InvalidRequest,
    ProtocolError,
    RequestError,
    TimedOut,
    TooLarge,
)
from edgeslm.messages import Chunk, ErrorBody, Request, Result
from edgeslm.protocol.codec import encode_result
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.feedback import Feedback, parse_feedback
from edgeslm.protocol.request_options import OPTIONS
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.small_nodes import SmallNode


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
    wait_for(lambda: client.node_state)
    with pytest.raises(TimedOut, match=r"within 2 s; the node 'hall' is online"):
        client.request("silent", "a", timeout=2)
    assert client.request("echo", "a", timeout=30).status == "ok"


def test_a_stopped_node_has_its_requests_kept(broker: Mosquitto) -> None:
    with SmallNode(broker.url):
        pass
    with Client(broker.url, "hall") as client:
        wait_for(lambda: client.node_state == "stopped")
        with pytest.raises(TimedOut, match="is stopped"):
            client.request("echo", "a", timeout=2)


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


@pytest.mark.parametrize("turns", range(6))
def test_a_request_can_be_cancelled_whatever_comes_at_that_moment(
    client: Client, node: SmallNode, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    inboxes: list[Inbox] = []
    enlist = ClientSession.enlist

    def note(session: ClientSession, task: str, outgoing: OutgoingMessage, inbox: Inbox) -> None:
        inboxes.append(inbox)
        enlist(session, task, outgoing, inbox)

    monkeypatch.setattr(ClientSession, "enlist", note)

    async def scene() -> None:
        task = asyncio.create_task(client.request_async("silent", "a", timeout=60))
        await asyncio.to_thread(node.wait_for_request)
        await asyncio.sleep(0.2)  # what follows its publishing has come
        inboxes[0](Room())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        task.cancel()
        assert done, "the cancel was lost"
        assert task.cancelled()

    asyncio.run(scene())


def test_it_needs_nothing_of_what_a_node_needs() -> None:
    program = (
        "import sys\n"
        "import edgeslm.client.client\n"
        "heavy = ['pydantic', 'yaml', 'numpy', 'onnxruntime', 'onnxruntime_genai', 'jinja2', 'jsonschema']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_is_small_enough_to_describe() -> None:
    public: dict[str, Any] = {name: value for name, value in vars(Client).items() if not name.startswith("_")}
    assert set(public) == {
        *("open", "close", "node_state"),
        *("request", "request_async", "stream", "listen", "feedback", "feedback_async"),
    }


def test_all_that_an_app_needs_comes_from_one_module() -> None:
    names = set(edgeslm.client.__all__)
    assert edgeslm.client.__all__ == sorted(names)
    assert {cls.__name__ for cls in REQUEST_ERRORS.values()} <= names
    for name in names:
        thing = getattr(edgeslm.client, name)
        assert inspect.isclass(thing) and (thing.__doc__ or "").strip(), name
    for _, method in inspect.getmembers(Client, inspect.isfunction):
        assert "return" in inspect.get_annotations(method), method


def test_the_options_that_editors_know_are_those_of_the_protocol() -> None:
    assert Options.__annotations__.keys() == OPTIONS.keys()
    assert Options.__total__ is False


def test_the_examples_in_its_docstrings_say_the_truth(client: Client) -> None:
    """Of a node that says ``critical`` to triage, and says after what it is told."""
    examples = 0
    for found in doctest.DocTestFinder(recurse=True).find(module, globs={**vars(module), "client": client}):
        runner = doctest.DocTestRunner()
        runner.run(found)
        assert not runner.failures, found.name
        examples += len(found.examples)
    assert examples >= 5


def test_an_error_can_be_raised_by_its_code(client: Client) -> None:
    result = client.request("echo", "a", {"max_token": 5}, timeout=30)
    with pytest.raises(InvalidRequest, match="max_token"):
        result.unwrap()
    assert client.request("echo", "a", timeout=30).unwrap() == {"text": "a"}
    busy = ErrorBody("busy", "too much", 100).exception()
    assert isinstance(busy, Busy) and busy.retry_after_ms == 100
    assert type(ErrorBody("of tomorrow", "?").exception()) is RequestError


def test_who_gives_up_has_the_request_cancelled_on_the_node(client: Client, node: SmallNode) -> None:
    with pytest.raises(TimedOut):
        client.request("silent", "a", timeout=0.5)
    assert_cancelled(node)


def test_a_cancelled_task_has_its_request_cancelled_on_the_node(client: Client, node: SmallNode) -> None:
    async def scene() -> None:
        task = asyncio.create_task(client.request_async("silent", "a", timeout=60))
        await asyncio.to_thread(node.wait_for_request)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scene())
    assert_cancelled(node)


def test_a_correction_says_who_sent_it(client: Client, broker: Mosquitto) -> None:
    with App(broker.port, "edgeslm/v1/hall/feedback/+") as app:
        client.feedback("triage", input="Fire!", label="critical", by="desk-3")
        heard = app.take("edgeslm/v1/hall/feedback/desk-3").json
    assert heard == {"task": "triage", "input": "Fire!", "label": "critical"}
    with pytest.raises(InvalidRequest):
        client.feedback("triage", input="Fire!", label="critical", by="#")


def test_what_has_its_result_is_not_cancelled(client: Client, node: SmallNode) -> None:
    client.request("echo", "a", timeout=30)
    client.feedback("triage", input="the next that the node hears", label="critical")
    wait_for(lambda: node.told)
    assert [one.topic for one in node.told] == [node.topics.feedback]


def test_many_tasks_at_a_time_in_one_loop(client: Client) -> None:
    async def scene() -> list[Result]:
        asked = [client.request_async(task, "a b", timeout=60) for task in ("echo", "triage", "stream") * 10]
        return await asyncio.gather(*asked)

    kinds = [next(iter(result.unwrap())) for result in asyncio.run(scene())]
    assert kinds == ["text", "label", "text"] * 10


def test_feedback_reaches_the_node(client: Client, node: SmallNode) -> None:
    client.feedback("triage", input="Burnt smell", label="critical")
    asyncio.run(client.feedback_async("fields", id="7f", fields={"machine": "press 4"}))
    wait_for(lambda: len(node.told) == 2)
    assert [parse_feedback(one.payload) for one in node.told] == [
        Feedback("triage", input="Burnt smell", label="critical"),
        Feedback("fields", id="7f", fields={"machine": "press 4"}),
    ]
    assert node.told[0].response_topic is None


def test_feedback_that_says_nothing_is_refused_here(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="a label, or fields"):
        client.feedback("triage", input="Burnt smell")


def test_feedback_to_a_node_that_was_never_there(broker: Mosquitto) -> None:
    with Client(broker.url, "hal") as client, pytest.raises(BrokerError, match="No node 'hal' listens"):
        client.feedback("triage", input="Burnt smell", label="critical")


def assert_cancelled(node: SmallNode) -> None:
    wait_for(lambda: node.told)
    (cancel,) = node.told
    assert cancel.topic == node.topics.cancel
    assert cancel.correlation == node.deliveries[0].correlation


def wait_for(holds: Callable[[], Any]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize("retained_before", [True, False])
def test_a_node_of_a_protocol_too_far_apart_is_not_asked(broker: Mosquitto, retained_before: bool) -> None:
    far = {"protocol": 3, "version": "9.0.0", "tasks": {}}
    with SmallNode(broker.url) as node, App(broker.port) as app:
        if retained_before:
            app.publish("edgeslm/v1/hall/info", far, retain=True)
        with Client(broker.url, "hall") as client:
            if not retained_before:
                assert client.request("label", "x").status == "ok"
                app.publish("edgeslm/v1/hall/info", {**far, "protocol": 2, "new": [1]}, retain=True)
                assert client.request("label", "x").status == "ok"
            with pytest.raises(ProtocolError, match=r"node 'hall' speaks protocol 3 \(edgeslm 9.0.0\)"):
                if not retained_before:
                    app.publish("edgeslm/v1/hall/info", far, retain=True)
                    client.request("silent", "x")
                client.request("label", "x")
        assert len(node.requests) <= 3


def test_a_reply_topic_that_nodes_refuse_is_never_sent(broker: Mosquitto) -> None:
    client = Client(broker.url, "hall", prefix="p" * 1100)
    with client, pytest.raises(InvalidRequest, match="shorter prefix"):
        client.request("echo", "a", timeout=30)
