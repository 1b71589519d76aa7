"""Requests over HTTP in a real node with fake engines: queue, journal, audit log, cancellation, restarts."""

from __future__ import annotations

import contextlib
import http.client
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
from edgeslm.config.web_sections import Api
from edgeslm.errors import ConfigError
from edgeslm.node.daemon import Waits
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
    # Two runs may take the same time, but not each.
    keys = [f"order-{number}" for number in range(2, 7)]
    assert any(times("other", key=key) != times("app", key=key) for key in keys)
    assert any(times("app", text=f"critical{mark}") != first for mark in "!?;")  # another request
    assert any(times("app", key=key) != first for key in keys[1:])
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


@pytest.mark.parametrize("headers", [{}, KEY], ids=["plain", "keyed"])
def test_a_node_that_stops_finishes_what_runs(
    broker: Mosquitto, tmp_path: Path, headers: dict[str, str]
) -> None:
    gate, replies = tmp_path / "gate", list[Any]()
    with api_node(tmp_path, broker.url) as node:
        api = client_of(node)
        asking = threading.Thread(target=lambda: replies.append(api.chat("say", f"hold {gate}", headers)))
        asking.start()
        wait_for(Path(f"{gate}.held").exists)
        node.request_stop()
        wait_for(lambda: node.daemon.health()["state"] == "draining")
        assert api.chat("say", "too late").status == 503
        gate.touch()
    asking.join(WAIT_S)
    assert replies[0].status == 200


@pytest.mark.parametrize("headers", [{}, KEY], ids=["plain", "keyed"])
def test_what_does_not_end_in_time_is_told(
    broker: Mosquitto, tmp_path: Path, headers: dict[str, str]
) -> None:
    gate, replies = tmp_path / "gate", list[Any]()
    with api_node(tmp_path, broker.url, waits=Waits(drain_limit_s=0.2)) as node:
        api = client_of(node)
        asking = threading.Thread(target=lambda: replies.append(api.chat("say", f"hold {gate}", headers)))
        asking.start()
        wait_for(Path(f"{gate}.held").exists)
    asking.join(WAIT_S)
    assert (replies[0].status, "stopping" in replies[0].text) == (503, True)


def test_no_answer_reaches_a_client_of_the_next_process(broker: Mosquitto, tmp_path: Path) -> None:
    """Its numbers start at 1 again; a request with a key runs on."""
    gate = tmp_path / "gate"
    with api_node(tmp_path, broker.url) as node:
        host, api = node.extension(ApiHost), client_of(node)
        body = {"stream": True, "temperature": 0.0}
        asking = threading.Thread(target=lambda: ask_and_lose(api, f"hold {gate}", body))
        asking.start()
        wait_for(Path(f"{gate}.held").exists)
        os.kill(host.pids["api"], 9)
        asking.join(WAIT_S)
        wait_for(lambda: host.url is None)
        wait_until_up(node)
        second, other = tmp_path / "second", client_of(node, "other")
        replies: list[Any] = []
        waiting = threading.Thread(
            target=lambda: replies.append(other.chat("say", f"hold {second}", stream=True))
        )
        waiting.start()
        gate.touch()
        wait_for(Path(f"{second}.held").exists)
        second.touch()
        waiting.join(WAIT_S)
    assert str(gate) not in replies[0].text and str(second) in replies[0].text


def ask_and_lose(api: ApiClient, text: str, body: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        api.chat("say", text, KEY, **body)


def test_repeats_at_once_run_once_and_all_are_answered(node: Node, tmp_path: Path) -> None:
    api, gate = client_of(node), tmp_path / "gate"
    replies: list[Any] = []
    key = {"idempotency_key": "many"}
    threads = [
        threading.Thread(target=lambda: replies.append(api.chat("say", f"hold {gate}", key)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    wait_for(Path(f"{gate}.held").exists)
    Path(f"{gate}.held").unlink()
    gate.touch()
    for thread in threads:
        thread.join(WAIT_S)
    assert len({json.dumps(reply.json["edgeslm"]) for reply in replies}) == 1
    assert not Path(f"{gate}.held").exists()


def test_errors_that_are_not_kept_are_answered_each_time(node: Node) -> None:
    api, replies = client_of(node), list[int]()
    key = {"idempotency_key": "busy"}
    threads = [
        threading.Thread(target=lambda: replies.append(api.chat("say", "fail busy", key).status))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert replies == [429] * 6


def test_an_engine_that_crashes_in_a_stream_repeats_no_text(node: Node, tmp_path: Path) -> None:
    reply = client_of(node).chat("say", f"crash-once {tmp_path / 'flag'} and more", stream=True)
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    texts = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(texts) == f"crash-once {tmp_path / 'flag'} and more"


def test_a_token_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    state = f"state_dir: {tmp_path}/state\n"
    config = parse_config(MINIMAL + state)
    (client,) = read_clients(Api(), config)
    assert client.name == "local"
    assert read_clients(Api(), config) == [client]
    assert (tmp_path / "state/api-tokens").stat().st_mode & 0o777 == 0o600


def test_a_reload_reads_the_tokens_again(broker: Mosquitto, tmp_path: Path) -> None:
    with api_node(tmp_path, broker.url) as node:
        file = tmp_path / "api-tokens"
        file.write_text("new a-token-that-is-new\n")
        node.run(node.daemon.admin.request_reload)  # the configuration is the same
        new = ApiClient(client_of(node).port, "a-token-that-is-new")
        wait_for(lambda: new.ask("/v1/models").status == 200)
        assert client_of(node).ask("/v1/models").status == 401
        file.write_text("nonsense\n")
        node.run(node.daemon.admin.request_reload)
        wait_for(lambda: any("former tokens" in sentence for sentence in node.daemon.health()["alerts"]))
        assert new.ask("/v1/models").status == 200


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{listen: '0.0.0.0:8481'}", "api.listen: without TLS"),
        ("{listen: '0.0.0.0:8481', https: true, anonymous: true}", "api.anonymous: is for loopback alone"),
        ("{cert_file: /c}", "api.key_file: missing"),
        ("{listen: '8480'}", "api.listen: is the console's address"),
        ("{mcp: [t, nothing]}", "api.mcp: no task is called 'nothing'; there are: t"),
        ("{mcp: []}", "api.mcp: must be true, false, or a list of tasks"),
        ("{mcp: yes please}", "api.mcp: must be true, false, or a list of tasks"),
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


def test_a_compromised_process_can_use_no_number_twice(node: Node) -> None:
    host, done = node.extension(ApiHost), threading.Event()
    problems: list[Exception] = []

    def submit() -> None:
        for _ in range(2):
            try:
                host.heard(Submit(10**6, "app", "triage", '{"input": "x"}', False))
            except ValueError as error:
                problems.append(error)
        done.set()

    node.run(submit)
    assert done.wait(WAIT_S) and len(problems) == 1
