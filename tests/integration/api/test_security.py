"""The HTTP API as an attacker meets it, over loopback against a real node with fake engines."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from pathlib import Path

import pytest

from edgeslm.api.web import MOST_CONNECTIONS
from edgeslm.web.connections import MOST_OF_ADDRESS, STRANGER_S
from edgeslm.web.server import HEADER_BYTES
from tests.support.apis import TOKENS, ApiClient, api_node, client_of
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.nodes import Node

PATHS = ["/v1/models", "/v1/models/triage", "/openapi.json", "/api/tags", "/api/version", "/mcp", "/nothing"]
POSTS = [
    *("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/rerank", "/mcp"),
    *("/api/chat", "/api/generate", "/api/show", "/api/embed"),
]


def test_no_path_without_a_token(node: Node) -> None:
    stranger = client_of(node, None)
    assert stranger.ask("/").text == "edgeslm is running"
    wrong = ["", "Bearer", f"Basic {TOKENS['app']}", f"Bearer {TOKENS['app'][:-1]}", "Bearer \xe9"]
    for path in PATHS + POSTS:
        body: dict[str, str] | None = {} if path in POSTS else None
        assert stranger.ask(path, body).status == 401
        for authorization in wrong:
            reply = stranger.ask(path, body, authorization=authorization)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


def test_pages_of_other_sites_are_refused(api: ApiClient) -> None:
    host = f"127.0.0.1:{api.port}"
    assert api.ask("/v1/models", origin=f"http://{host}", sec_fetch_site="same-origin").status == 200
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{host}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ):
        assert api.ask("/v1/models", **headers).status == 403
    for name in ("evil.example", f"{host}.evil.example", "a@localhost", ""):
        assert api.ask("/v1/models", host=name).status == 421
    assert "access-control-allow-origin" not in api.ask("/v1/models").headers


def test_a_client_has_its_tasks_alone(node: Node) -> None:
    few = client_of(node, "few")
    assert [one["id"] for one in few.ask("/v1/models").json["data"]] == ["triage"]
    assert few.chat("triage", "critical").status == 200
    for name in ("say", "model:small"):
        reply = few.chat(name, "Hi")
        assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
    assert few.ask("/v1/models/say").status == 404
    assert few.ask("/api/show", {"model": "say"}).status == 404


def test_bodies_and_headers_are_bounded(api: ApiClient) -> None:
    reply = api.ask("/v1/chat/completions", b"x" * 5_000_000)
    assert (reply.status, "(limits.packet_bytes)" in reply.text) == (413, True)
    for path, headers in (("/v1/models", {"x_long": "x" * HEADER_BYTES}), (f"/v1/{'x' * HEADER_BYTES}", {})):
        assert api.ask(path, **headers).status in (400, 431)
    assert api.ask("/v1/models", x_long="x" * (HEADER_BYTES - 500)).status == 200
    status = None
    with contextlib.suppress(ConnectionError):  # the answer may come while the headers are still being sent
        status = api.ask("/v1/models", x_long="x" * (64 * HEADER_BYTES)).status
    assert status in (None, 400, 431)


def test_a_slow_body_is_given_up(api: ApiClient) -> None:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {api.token}",
        "Content-Length: 100",
    ]
    with socket.create_connection(("127.0.0.1", api.port), 60) as connection:
        connection.sendall("\r\n".join([*lines, "", "{"]).encode())
        started = time.monotonic()
        assert b" 408 " in connection.recv(100)
        assert 5 < time.monotonic() - started < 30


def test_without_a_token_where_the_owner_allows_it(broker: Mosquitto, tmp_path: Path) -> None:
    with api_node(tmp_path, broker.url, api={"anonymous": True}) as node:
        stranger = client_of(node, None)
        assert stranger.chat("triage", "critical").status == 200
        assert stranger.ask("/v1/models", authorization="Bearer sk-0000000000000000").status == 200


def test_models_can_be_left_out(broker: Mosquitto, tmp_path: Path) -> None:
    with api_node(tmp_path, broker.url, api={"models": False}) as node:
        api = client_of(node)
        assert not [one for one in api.ask("/v1/models").json["data"] if one["id"].startswith("model:")]
        assert api.chat("model:small", "Hi").status == 404


def test_too_many_connections_are_told_so(node: Node) -> None:
    api = client_of(node)
    request = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", api.port), WAIT_S))
            connection.sendall(request.encode())
            assert b" 200 " in connection.recv(100)
        reply = api.ask("/v1/models")
        sentence = "The API has too many connections; try again."
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.json["error"]["message"] == sentence and reply.json["error"]["type"] == "server_error"
        assert api.ask("/api/tags").json == {"error": sentence}
    give_up_at = time.monotonic() + WAIT_S
    while api.ask("/v1/models").status != 200:
        assert time.monotonic() < give_up_at


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/models HTTP/1.1\r\nHost: loc"], ids=["silent", "slow headers"]
)
def test_strangers_dont_lock_out_a_client_with_a_token(node: Node, sent: bytes) -> None:
    api = client_of(node)
    kept = http.client.HTTPConnection("127.0.0.1", api.port, timeout=WAIT_S)
    headers = {"Authorization": f"Bearer {api.token}"}
    with contextlib.ExitStack() as stack:
        stack.callback(kept.close)
        strangers = []
        for number in range(2 * MOST_CONNECTIONS):
            strangers.append(stack.enter_context(socket.create_connection(("127.0.0.1", api.port), WAIT_S)))
            with contextlib.suppress(OSError):  # it may be closed already
                strangers[-1].sendall(sent)
            if number % 64 == 0:
                kept.request("GET", "/v1/models", headers=headers)
                assert kept.getresponse().read()
                assert api.chat("triage", "critical").status == 200
        assert api.ask("/v1/models").status == 200  # it came after all of them
        assert sum(map(is_open, strangers)) <= MOST_OF_ADDRESS
        give_up_at = time.monotonic() + WAIT_S
        while any(map(is_open, strangers)):
            assert time.monotonic() < give_up_at, "a stranger's connection stays open"
            time.sleep(0.1)
        kept.request("GET", "/v1/models", headers=headers)
        assert kept.getresponse().status == 200, "a client's connection outlives theirs"


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1000))
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_a_wrong_token_leaves_a_connection_a_strangers(node: Node) -> None:
    api = client_of(node)
    request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer nobody\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), WAIT_S) as connection:
        started = time.monotonic()
        while True:  # answers don't keep it open
            try:
                connection.sendall(request)
                if not connection.recv(10_000):
                    break
            except ConnectionError:
                break
            time.sleep(0.2)
        assert STRANGER_S - 1 < time.monotonic() - started < 5 * STRANGER_S
