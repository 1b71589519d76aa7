"""The client of OpenAI-compatible servers, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.remote_stages import read_key
from edgeslm.remote import chat as chats
from edgeslm.remote.chat import Chat, RemoteError, Reply
from edgeslm.remote.client import ChatClient
from tests.support.chat_servers import Answer, FakeChatServer, completion

CHAT = Chat(({"role": "user", "content": "grüß Gott"},), 9, sampling={"temperature": 0.0})


def asked(server: FakeChatServer | str, timeout_s: float = 10.0, **how: Any) -> tuple[Reply, int]:
    """The reply, and the bytes that were sent."""
    sent: list[int] = []

    async def ask() -> Reply:
        url = server if isinstance(server, str) else server.url
        client = ChatClient(url, "big", is_local=True, **how)
        try:
            return await client.ask(CHAT, timeout_s, sent.append)
        finally:
            await client.close()

    return asyncio.run(ask()), sum(sent)


def failure(answer: Answer, **how: Any) -> RemoteError:
    with FakeChatServer(answer).running() as server, pytest.raises(RemoteError) as error:
        asked(server, **how)
    return error.value


def test_a_chat_gets_its_answer_and_its_bytes_are_counted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-123\n")
    with FakeChatServer(lambda body: "hello").running() as server:
        reply, sent = asked(server, read_key=lambda: read_key(key))
    assert reply.text == "hello"
    assert sent == server.received > 0
    assert server.headers[0]["authorization"] == "Bearer sk-123"
    assert server.asked[0]["messages"][0]["content"] == "grüß Gott"


def test_fields_that_the_server_refuses_are_left_out_from_then_on() -> None:
    def answer(body: dict[str, Any]) -> bytes | str:
        for name in ("temperature", "max_tokens"):
            if name in body:
                return f'400 {{"error": {{"message": "unsupported: {name}"}}}}'.encode()
        return "hello"

    with FakeChatServer(answer).running() as server:
        reply, sent = asked(server)
    assert reply.text == "hello"
    assert sent == server.received
    assert server.asked[-1]["max_completion_tokens"] == 9


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_an_error_status_is_an_error_of_the_server(status: int) -> None:
    error = failure(lambda body: status)
    assert (str(error), error.is_of_server) == (f"it answers with status {status}", True)


def test_a_refused_request_says_nothing_of_the_server() -> None:
    assert not failure(lambda body: 413).is_of_server


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("nan", None), ("-1", 0.0)]
)
def test_a_busy_server_says_when_it_wants_the_next_request(header: str, seconds: float | None) -> None:
    with FakeChatServer(lambda body: 429).running() as server:
        server.retry_after = header
        with pytest.raises(RemoteError) as error:
            asked(server)
    assert error.value.retry_after_s == seconds


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b'{"choices": []}', json.dumps({"choices": [{}]}).encode(), b"\xff\xfe"]
)
def test_rubbish_is_an_error(body: bytes) -> None:
    assert str(failure(lambda _: body)) == "its answer is no chat completion"


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeslm.remote.client.LONGEST_ANSWER", 1000)
    assert "more than 1000 bytes" in str(failure(lambda _: completion("x" * 2000)))
    assert chats.LONGEST_ANSWER > 1000


def test_a_connection_without_an_answer_is_an_error() -> None:
    assert "broke off" in str(failure(lambda _: None))


def test_a_server_that_stalls_is_given_up() -> None:
    server = FakeChatServer(lambda body: "late")
    server.is_stalling.set()
    with server.running(), pytest.raises(RemoteError, match=r"no answer within 0\.3 s"):
        asked(server, 0.3)


def test_a_server_that_is_down_gets_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RemoteError, match="can't be reached"):
        asked(f"http://127.0.0.1:{port}/v1")


def test_an_unusable_key_file_is_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with FakeChatServer(lambda body: "hello").running() as server:
        for name in ("empty", "missing"):
            with pytest.raises(RemoteError, match="key_file"):
                asked(server, read_key=lambda name=name: read_key(tmp_path / name))
    assert server.received == 0
