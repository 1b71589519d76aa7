"""An engine that is killed while it works on a request: an answer or a 5xx at each path, and never a hang."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apis import ApiClient, api_node, client_of
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.consoles import Reply
from tests.support.nodes import Node, fake_configuration, write_reader


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "say", "messages": [{"role": "user", "content": text}], **more}


def doors(text: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Name -> path, model whose engine works, and body."""
    call = {"name": "say", "arguments": {"input": text}}
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return {
        "chat": ("/v1/chat/completions", "small", chat(text)),
        "chat stream": ("/v1/chat/completions", "small", chat(text, stream=True)),
        "responses": ("/v1/responses", "small", {"model": "say", "input": text}),
        "responses stream": ("/v1/responses", "small", {"model": "say", "input": text, "stream": True}),
        "embeddings": ("/v1/embeddings", "encoder", {"model": "vector", "input": text}),
        "rerank": ("/v1/rerank", "reader", {"model": "model:reader", "query": text, "documents": ["0.5 a"]}),
        "ollama chat": ("/api/chat", "small", chat(text, stream=False)),
        "ollama chat stream": ("/api/chat", "small", chat(text)),
        "ollama generate stream": ("/api/generate", "small", {"model": "say", "prompt": text}),
        "ollama embed": ("/api/embed", "encoder", {"model": "vector", "input": text}),
        "mcp": ("/mcp", "small", rpc),
    }


NAMES = tuple(doors(""))
STREAMS = tuple(name for name in NAMES if name.endswith("stream"))


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    models = fake_configuration("", folder)["models"]
    models["reader"] = {"bundle": str(write_reader(folder / "reader"))}
    with api_node(folder, module_broker.url, models=models, api={"mcp": True}) as node:
        yield node


def ask_and_kill(node: Node, name: str, order: str, file: Path, kills: int) -> Reply:
    """The reply to a request whose engine is killed so often while it works. Then the file lets it end."""
    path, model, body = doors(f"{order} {file}")[name]
    api, held, replies = client_of(node), Path(f"{file}.held"), list[Reply]()
    headers = {"content_type": "application/json", "accept": "application/json, text/event-stream"}
    asking = threading.Thread(target=lambda: replies.append(api.ask(path, body, **headers)), daemon=True)
    asking.start()
    give_up_at = time.monotonic() + WAIT_S
    for _ in range(kills):
        while not held.exists() and asking.is_alive():
            assert time.monotonic() < give_up_at, "the engine isn't asked"
            time.sleep(0.01)
        if not asking.is_alive():
            break
        held.unlink()
        os.kill(node.daemon.service.models.pids[model], signal.SIGKILL)
    file.touch()
    asking.join(WAIT_S)
    assert replies, "no answer"
    return replies[0]


def check_it_goes_on(api: ApiClient) -> None:
    assert api.chat("say", "Spindle 3 smells").status == 200


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_in_the_middle_is_made_good(node: Node, tmp_path: Path, name: str) -> None:
    file = tmp_path / "go"
    reply = ask_and_kill(node, name, "pour", file, 1)
    assert reply.status == 200, reply.text
    if name in STREAMS:
        assert text_of(name, reply) == f"pour {file}", "each piece once"
    assert "error" not in reply.text or '"error":null' in reply.text, reply.text
    check_it_goes_on(client_of(node))


@pytest.mark.parametrize("name", NAMES)
def test_kills_without_end_are_a_5xx(node: Node, tmp_path: Path, name: str) -> None:
    reply = ask_and_kill(node, name, "hold", tmp_path / "go", 20)
    if name == "mcp":  # errors of tools are results
        assert '"isError":true' in reply.text and "engine" in reply.text, reply.text
    else:
        assert 500 <= reply.status < 600, reply.text
        error = reply.json["error"]
        assert (error if name.startswith("ollama") else error["message"]).endswith(".")
    check_it_goes_on(client_of(node))


@pytest.mark.parametrize("name", STREAMS)
def test_kills_without_end_after_the_first_piece_end_the_stream(
    node: Node, tmp_path: Path, name: str
) -> None:
    """The status is sent already: the error is the last event, in the form of the dialect."""
    file = tmp_path / "go"
    reply = ask_and_kill(node, name, "pour", file, 20)
    assert reply.status == 200
    assert text_of(name, reply) == f"pour {file}"
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if "{" in line]
    last = json.loads(events[-1])
    if name == "responses stream":
        assert last["type"] == "error" and last["message"]
    elif name == "chat stream":
        assert last["error"]["message"] and reply.text.endswith("data: [DONE]\n\n")
    else:
        assert isinstance(last["error"], str)
    check_it_goes_on(client_of(node))


def text_of(name: str, reply: Reply) -> str:
    """The text of a stream, piece by piece."""
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if "{" in line]
    if name == "chat stream":
        pieces = [one["choices"][0]["delta"].get("content") for one in events if one.get("choices")]
    elif name == "responses stream":
        pieces = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
    else:
        pieces = [one.get("response") or one.get("message", {}).get("content") for one in events]
    return "".join(piece or "" for piece in pieces)
