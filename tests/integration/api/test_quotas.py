"""Quotas of clients: each token is one sender, at whatever path it asks, and no other client pays for it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apis import ApiClient, api_node, client_of
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.consoles import Reply
from tests.support.nodes import Node, fake_configuration, write_reader

TOKENS_PER_MINUTE = 60
"""Six to nine requests to the fake engine."""
MESSAGES = [{"role": "user", "content": "Spindle 3 smells"}]


def mcp_call(api: ApiClient) -> Reply:
    """A refusal of a tool has the status 200: here, it has that of other paths."""
    params = {"name": "triage", "arguments": {"input": "critical"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    accepts = "application/json, text/event-stream"
    reply = api.ask("/mcp", body, content_type="application/json", accept=accepts)
    assert reply.status == 200, reply.text
    is_busy = "used its tokens" in reply.text
    return Reply(429 if is_busy else 200, {**reply.headers, "retry-after": "1"}, reply.body)


DOORS: dict[str, Callable[[ApiClient], Reply]] = {
    "chat": lambda api: api.chat("say", "Spindle 3 smells"),
    "stream": lambda api: api.chat("say", "Spindle 3 smells", stream=True),
    "classify": lambda api: api.chat("triage", "critical"),
    "responses": lambda api: api.ask("/v1/responses", {"model": "say", "input": "Spindle"}),
    "embeddings": lambda api: api.ask("/v1/embeddings", {"model": "vector", "input": "Spindle"}),
    "many embeddings": lambda api: api.ask("/v1/embeddings", {"model": "vector", "input": ["a"] * 20}),
    "rerank": lambda api: api.ask(
        "/v1/rerank", {"model": "model:reader", "query": "?", "documents": ["0.5 Oil it."]}
    ),
    "ollama chat": lambda api: api.ask("/api/chat", {"model": "say", "messages": MESSAGES}),
    "ollama generate": lambda api: api.ask("/api/generate", {"model": "say", "prompt": "Spindle"}),
    "ollama embed": lambda api: api.ask("/api/embed", {"model": "vector", "input": "Spindle"}),
    "mcp": mcp_call,
}


@pytest.fixture
def node(broker: Mosquitto, tmp_path: Path) -> Iterator[Node]:
    models = fake_configuration("", tmp_path)["models"]
    models["reader"] = {"bundle": str(write_reader(tmp_path / "reader"))}
    limits = {"sender_tokens_per_min": TOKENS_PER_MINUTE}
    with api_node(tmp_path, broker.url, models=models, limits=limits, api={"mcp": True}) as node:
        yield node


@pytest.mark.parametrize("door", DOORS)
def test_a_token_is_held_to_its_quota(node: Node, door: str) -> None:
    api, other = client_of(node), client_of(node, "other")
    replies: list[Reply] = []
    while not replies or replies[-1].status == 200:
        replies.append(DOORS[door](api))
        assert len(replies) < 30, "nothing was counted"
    assert replies[-1].status == 429, replies[-1].text
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert "used its tokens" in replies[-1].text
    for name, ask in DOORS.items():  # the quota is the client's, not the path's
        assert ask(api).status == 429, name
    assert DOORS["chat"](other).status == 200, "another client has its own"


def test_a_stream_that_is_left_before_its_end_costs_its_tokens(node: Node, tmp_path: Path) -> None:
    api = client_of(node)
    texts = {"user": "word " * TOKENS_PER_MINUTE, "assistant": "Yes?"}
    held = [{"role": role, "content": text} for role, text in texts.items()]
    held.append({"role": "user", "content": f"hold {tmp_path}/never"})
    data = json.dumps({"model": "say", "stream": True, "messages": held}).encode()
    assert api.chat("say", "Spindle").status == 200
    with socket.create_connection(("127.0.0.1", api.port), WAIT_S) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        connection.sendall(f"{head}Authorization: Bearer {api.token}\r\n\r\n".encode() + data)
        give_up_at = time.monotonic() + WAIT_S
        while not list(tmp_path.glob("never*.held")):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
    while node.daemon.service.scheduler.in_flight:
        assert time.monotonic() < give_up_at, "the request runs on"
        time.sleep(0.02)
    assert api.chat("say", "Spindle").status == 429
