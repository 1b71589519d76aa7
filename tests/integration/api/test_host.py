"""Requests over HTTP in a real node with fake engines: queue, journal, audit log, cancellation, restarts."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgeslm.api.host import ApiHost, read_clients
from edgeslm.api.wire import Submit
from edgeslm.config.loader import parse_config
from edgeslm.config.sections import Api
from edgeslm.errors import ConfigError
from tests.support.apis import ApiClient, api_node, client_of, wait_until_up
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node

KEY = {"idempotency_key": "order-1"}
MINIMAL = """
node: a
broker: {url: mqtt://localhost}
models: {m: {bundle: /b}}
tasks: {t: {kind: embed, model: m}}
"""


def wait_for(holds: Any) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def leave(api: ApiClient, text: str, held: Path, **headers: str) -> None:
    """Sends a request, and closes the connection once the engine works on it."""
    body = json.dumps({"model": "say", "messages": [{"role": "user", "content": text}]})
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {api.token}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", api.port), WAIT_S) as connection:
        connection.sendall("\r\n".join([*lines, "", body]).encode())
        wait_for(held.exists)


def test_requests_are_audited_without_texts(broker: Mosquitto, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    with api_node(tmp_path, broker.url, audit={"file": str(audit)}) as node:
        assert client_of(node).chat("triage", "Spindle critical").status == 200
        assert client_of(node).chat("say", "Hi", options={"labels": ["a", "b"]}).status == 400
        assert node.daemon.health()["memory_bytes"]["api"] > 0
    first, second = [json.loads(line) for line in audit.read_text().splitlines() if '"api"' in line]
    assert (first["task"], first["reply_to"], first["status"]) == ("triage", "#api/app", "ok")
    assert (second["task"], second["code"]) == ("say", "invalid_request")
    assert "Spindle" not in audit.read_text()


def test_models_are_for_the_api_alone(node: Node, module_broker: Mosquitto) -> None:
    with App(module_broker.port, f"{BASE}/res/#") as app:
        for reply_to in (f"{BASE}/res/model:small", "#api/app"):
            app.publish(f"{BASE}/req/model:small", {"input": "Hi", "id": "7", "reply_to": reply_to})
            result = app.take(f"{BASE}/res/model:small")
            assert result.json["error"]["code"] in ("unknown_task", "invalid_request")
    assert not any(name.startswith("model:") for name in node.daemon.info()["tasks"])
    assert client_of(node).chat("model:small", "Hi").status == 200


def test_a_closed_connection_cancels_a_request(node: Node, tmp_path: Path) -> None:
    api, gate = client_of(node), tmp_path / "gate"
    leave(api, f"hold {gate}", Path(f"{gate}.held"))
    assert api.chat("say", "Hi").status == 200  # the engine is free, though the gate is closed
    assert not gate.exists()


def test_a_request_with_a_key_runs_on_and_its_result_is_kept(node: Node, tmp_path: Path) -> None:
    api, gate = client_of(node), tmp_path / "gate"
    text, held = f"hold {gate}", Path(f"{gate}.held")
    leave(api, text, held, **KEY)
    held.unlink()
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.append(api.chat("say", text, KEY)))
    waiting.start()
    wait_for(lambda: node.daemon.health()["repeats"]["attached"] == 1)
    gate.touch()
    waiting.join(WAIT_S)
    again = api.chat("say", text, KEY)
    assert replies[0].json["edgeslm"] == again.json["edgeslm"]
    assert not held.exists()  # the engine ran once
    assert node.daemon.health()["repeats"]["resent"] == 1


def test_a_repeat_after_a_restart_gets_the_stored_result(broker: Mosquitto, tmp_path: Path) -> None:
    times = []
    for _ in range(2):
        with api_node(tmp_path, broker.url) as node:
            times.append(client_of(node).chat("triage", "critical", KEY).json["edgeslm"]["timings_ms"])
    assert times[0] == times[1]


def test_another_client_never_gets_a_stored_result(node: Node) -> None:
    def times(name: str, text: str = "critical", key: str = "order-2") -> Any:
        reply = client_of(node, name).chat("triage", text, {"idempotency_key": key})
        return reply.json["edgeslm"]["timings_ms"]

    first = times("app")
    assert times("app") == first
    assert times("other") != first
    assert times("app", text="critical!") != first  # another request with the same key
    assert times("app", key="order-3") != first
    assert client_of(node).chat("triage", "x", {"idempotency_key": "k" * 300}).status == 400


def test_one_client_at_most_takes_its_share(node: Node, tmp_path: Path) -> None:
    api, gate = client_of(node), tmp_path / "gate"
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(api.chat("say", f"hold {gate}").status))
        for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(replies) >= 8)
    assert set(replies) == {429}
    gate.touch()
    for thread in threads:
        thread.join(WAIT_S)
    assert replies.count(200) == 32


def test_a_process_that_ends_comes_again(broker: Mosquitto, tmp_path: Path) -> None:
    with api_node(tmp_path, broker.url) as node:
        host = node.extension(ApiHost)
        pid = host.pids["api"]
        os.kill(pid, 9)
        wait_for(lambda: host.url is None)
        assert any("API" in sentence for sentence in node.daemon.health()["alerts"])
        wait_until_up(node)
        assert client_of(node).chat("triage", "critical").status == 200
        assert host.pids["api"] != pid


def test_a_node_that_stops_answers_what_runs(broker: Mosquitto, tmp_path: Path) -> None:
    replies: list[Any] = []
    gate = tmp_path / "gate"
    with api_node(tmp_path, broker.url) as node:
        api = client_of(node)

        def ask() -> None:
            try:
                replies.append(api.chat("say", f"hold {gate}").status)
            except OSError:
                replies.append("closed")

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(Path(f"{gate}.held").exists)
    asking.join(WAIT_S)
    assert replies[0] in (503, "closed")


def test_a_token_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    state = f"state_dir: {tmp_path}/state\n"
    config = parse_config(MINIMAL + state)
    (client,) = read_clients(Api(), config)
    assert client.name == "local"
    assert read_clients(Api(), config) == [client]
    assert (tmp_path / "state/api-tokens").stat().st_mode & 0o777 == 0o600


def test_a_reload_reads_the_tokens_again(broker: Mosquitto, tmp_path: Path) -> None:
    with api_node(tmp_path, broker.url) as node:
        host = node.extension(ApiHost)
        file = tmp_path / "api-tokens"
        file.write_text("new a-token-that-is-new\n")
        node.run(host.take_up, node.daemon.config)
        new = ApiClient(client_of(node).port, "a-token-that-is-new")
        wait_for(lambda: new.ask("/v1/models").status == 200)
        assert client_of(node).ask("/v1/models").status == 401
        file.write_text("nonsense\n")
        node.run(host.take_up, node.daemon.config)
        wait_for(lambda: any("former tokens" in sentence for sentence in node.daemon.health()["alerts"]))
        assert new.ask("/v1/models").status == 200


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{listen: '0.0.0.0:8481'}", "api.listen: without TLS"),
        ("{listen: '0.0.0.0:8481', https: true, anonymous: true}", "api.anonymous: is for loopback alone"),
        ("{cert_file: /c}", "api.key_file: missing"),
        ("{listen: '8480'}", "api.listen: is the console's address"),
    ],
)
def test_what_is_no_section(section: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(MINIMAL + f"console: {{}}\napi: {section}\n")
    assert any(words in problem for problem in raised.value.problems)


def test_a_compromised_process_can_take_no_other_name(node: Node) -> None:
    host = node.extension(ApiHost)
    for name in ("nobody", "anonymous", "app/../x", ""):
        with pytest.raises(ValueError, match="unknown client"):
            host.heard(Submit(1, name, "triage", '{"input": "x"}', False))
