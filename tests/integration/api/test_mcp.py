"""The official MCP client against a node with fake engines, by the newest protocol and the one before."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.api.host import ApiHost
from tests.integration.api.test_fuzz import CASES, mutated
from tests.support.apis import ApiClient, api_node, client_of
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.mcp_clients import MODES, call, connected, error_of, with_client
from tests.support.nodes import Node

HEADERS = {"content_type": "application/json", "accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with api_node(tmp_path_factory.mktemp("node"), module_broker.url, api={"mcp": True}) as node:
        yield node


@pytest.mark.parametrize("mode", MODES)
def test_tasks_are_tools(api: ApiClient, mode: str) -> None:
    tools = {tool.name: tool for tool in with_client(api, lambda client: client.list_tools(), mode).tools}
    assert list(tools) == ["triage", "strict", "fields", "manual", "brief", "say", "vector"]
    triage = tools["triage"]
    assert triage.description == (
        "Classifies a text with one of the labels: normal (all is well), critical (stop now)."
    )
    assert list(triage.input_schema["properties"]) == ["input"]
    assert list(tools["fields"].input_schema["properties"]) == ["input", "schema", "max_tokens"]
    assert tools["manual"].input_schema["required"] == ["input", "context"]
    assert triage.output_schema is not None
    label = triage.output_schema["properties"]["result"]["properties"]["label"]
    assert label["enum"] == ["normal", "critical"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("task", "arguments", "text"),
    [
        ("triage", {"input": "critical smoke"}, "critical"),
        ("strict", {"input": "critical"}, "Not sure enough: critical with a confidence of 0.90."),
        ("fields", {"input": "press-4 is hot", "max_tokens": 20}, '{"machine":"press-4"}'),
        ("manual", {"input": "E42?", "context": "Error E42 means no oil."}, None),
        ("brief", {"input": "All is well. Nobody was hurt."}, None),
        ("say", {"input": "one two"}, "one two"),
        ("vector", {"input": "a"}, '{"vector":[0.6,0.8]}'),
    ],
)
def test_each_kind_answers(
    api: ApiClient, mode: str, task: str, arguments: dict[str, Any], text: str | None
) -> None:
    answer = call(api, task, mode, **arguments)  # the client checks it against the output schema
    assert not answer.is_error
    assert answer.content[0].text == text or text is None
    result = answer.structured_content
    is_sure = task not in ("strict", "manual")
    assert (result["task"], result["status"]) == (task, "ok" if is_sure else "abstained")
    assert result["model"] and result["timings_ms"]["total"] > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("task", "arguments", "part"),
    [
        ("triage", {}, "'input' must be a text"),
        ("triage", {"input": 7}, "'input' must be a text"),
        ("triage", {"input": ["a"]}, "'input' must be a text"),
        ("triage", {"input": "a", "labels": ["x", "y"]}, "no argument 'labels'"),
        ("triage", {"input": "a", "k" * 500: 1}, "no argument 'kkk"),
        ("manual", {"input": "E42?"}, "'context' must be a text"),
        ("fields", {"input": "a", "schema": []}, "Option 'schema' must be an object"),
        ("fields", {"input": "a", "max_tokens": 0}, "max_tokens"),
        ("say", {"input": "fail too_long"}, "The fake engine was told to."),
        ("say", {"input": "fail no_memory"}, "The fake engine was told to."),
        ("say", {"input": "crash"}, "crashed"),
    ],
)
def test_errors_are_told_to_the_model(
    api: ApiClient, mode: str, task: str, arguments: dict[str, Any], part: str
) -> None:
    answer = call(api, task, mode, **arguments)
    assert answer.is_error and part in answer.content[0].text


@pytest.mark.parametrize("mode", MODES)
def test_unknown_tools_and_methods(api: ApiClient, mode: str) -> None:
    error = error_of(api, lambda client: client.call_tool("nothing", {"input": "a"}), mode)
    assert error.code == -32602 and error.message.startswith(
        "There is no tool 'nothing' here; there are: tri"
    )
    assert error_of(api, lambda client: client.list_prompts(), mode).code == -32601


@pytest.mark.parametrize("mode", MODES)
def test_a_token_s_tasks_are_its_tools(node: Node, mode: str) -> None:
    few = client_of(node, "few")
    assert [tool.name for tool in with_client(few, lambda client: client.list_tools(), mode).tools] == [
        "triage"
    ]
    assert call(few, "triage", mode, input="critical").structured_content["result"]["label"] == "critical"
    error = error_of(few, lambda client: client.call_tool("say", {"input": "a"}), mode)
    assert error.message == "There is no tool 'say' here; there are: triage."


def test_without_collections_there_are_no_resources(api: ApiClient) -> None:
    assert with_client(api, lambda client: client.list_resources()).resources == []
    assert with_client(api, lambda client: client.list_resource_templates()).resource_templates == []


def test_without_a_token(node: Node) -> None:
    for token in (None, "another-token-012345"):
        reply = ApiClient(client_of(node).port, token).ask("/mcp", LIST, **HEADERS)
        assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
        assert reply.json["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[" * 5000, {}, 400),
        (b"[]", {}, 400),
        (b"7", {}, 400),
        (b'"\xff"', {}, 400),
        (b"{}", {}, 400),
        ([LIST], {}, 400),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 202),
        ({"jsonrpc": "2.0", "method": "notifications/initialized"}, {}, 202),
        ({"jsonrpc": "2.0", "method": "notifications/nonsense", "params": {"a": 1}}, {}, 202),
        (LIST, {"accept": "text/html"}, 406),
        (LIST, {"content_type": "text/plain"}, 400),
        (LIST, {"mcp_protocol_version": "1999-01-01"}, 400),
        (LIST, {"mcp_protocol_version": "x" * 3000}, 400),
        (LIST, {"mcp_session_id": "stale"}, 200),
        (LIST, {"origin": "http://evil.example"}, 403),
        (LIST, {"host": "evil.example"}, 421),
        (b" " * 4_200_000, {}, 413),
    ],
)
def test_bad_messages(api: ApiClient, body: Any, headers: dict[str, str], status: int) -> None:
    assert api.ask("/mcp", body, **{**HEADERS, **headers}).status == status
    assert call(api, "triage", input="critical").content[0].text == "critical"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_other_methods_are_refused(api: ApiClient, method: str) -> None:
    assert api.ask("/mcp", method=method, **HEADERS).status == 405


@pytest.mark.parametrize("mode", MODES)
def test_sixteen_clients_at_once(api: ApiClient, mode: str) -> None:
    async def one(number: int) -> None:
        async with connected(api, mode) as client:
            for turn in range(4):
                text = f"number {number} {turn}"
                answer = await client.call_tool("say", {"input": text})
                assert answer.content[0].text == text  # type: ignore[union-attr]

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(16)))

    asyncio.run(all_of_them())


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_connection_cancels_a_call(api: ApiClient, tmp_path: Path, mode: str) -> None:
    gate = tmp_path / "gate"
    held = Path(f"{gate}.held")

    async def leave() -> None:
        async with connected(api, mode) as client:
            calling = asyncio.create_task(client.call_tool("say", {"input": f"hold {gate}"}))
            while not held.exists():
                await asyncio.sleep(0.01)
            calling.cancel()
            await asyncio.wait([calling])

    asyncio.run(asyncio.wait_for(leave(), WAIT_S))
    assert api.chat("say", "Hi").status == 200  # the engine is free, though the gate is closed
    assert not gate.exists()


META = {
    "io.modelcontextprotocol/protocolVersion": MODES[0],
    "io.modelcontextprotocol/clientCapabilities": {},
}
SEEDS: list[dict[str, Any]] = [
    LIST,
    {**LIST, "method": "tools/call", "params": {"name": "say", "arguments": {"input": "Hi"}}},
    {**LIST, "method": "resources/read", "params": {"uri": "edgeslm:///knowledge/a/b"}},
    {**LIST, "method": "resources/list"},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
    {
        **LIST,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "a", "version": "1"},
        },
    },
]


def cancel(api: ApiClient, number: Any, session: str | None) -> None:
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
    assert api.ask("/mcp", body, mcp_session_id=session, **HEADERS).status == 202


def test_a_message_cancels_a_call_of_its_session(node: Node, tmp_path: Path) -> None:
    """Clients of the protocol with a handshake keep the connection open."""
    api = client_of(node)
    (initialize,) = (seed for seed in SEEDS if seed["method"] == "initialize")
    sessions = [api.ask("/mcp", initialize, **HEADERS).headers["mcp-session-id"] for _ in range(2)]
    assert sessions[0] != sessions[1]
    gate = tmp_path / "gate"
    arguments = {"name": "say", "arguments": {"input": f"hold {gate}"}}
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": arguments}
    replies: list[Any] = []
    calling = threading.Thread(
        target=lambda: replies.append(api.ask("/mcp", body, mcp_session_id=sessions[0], **HEADERS))
    )
    calling.start()
    give_up_at = time.monotonic() + WAIT_S
    while not Path(f"{gate}.held").exists():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    for other in (sessions[1], None, "", "x"):
        cancel(api, 7, other)
    numbers: tuple[Any, ...] = (8, "7", None, [], {})
    for number in numbers:
        cancel(api, number, sessions[0])
    cancel(client_of(node, "other"), 7, sessions[0])
    calling.join(0.3)
    assert calling.is_alive()
    cancel(api, 7, sessions[0])
    calling.join(WAIT_S)
    assert '"code":-32800' in replies[0].text
    assert api.chat("say", "Hi").status == 200  # the engine is free, though the gate is closed


def test_every_message_is_answered(api: ApiClient) -> None:
    choice, seen = random.Random(1), Counter[int]()
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=WAIT_S)
    for number in range(CASES // 2):
        seed = dict(choice.choice(SEEDS))
        headers = {
            "Authorization": f"Bearer {api.token}",
            "Content-Type": "application/json",
            "Accept": HEADERS["accept"],
        }
        if number % 2:
            seed["params"] = {**seed.get("params", {}), "_meta": META}
            headers |= {"MCP-Protocol-Version": MODES[0], "Mcp-Method": seed["method"]}
            if name := seed["params"].get("name", seed["params"].get("uri")):
                headers["Mcp-Name"] = name
        data = mutated([seed], choice)
        connection.request("POST", "/mcp", data, headers)
        response = connection.getresponse()
        body = response.read()
        seen[response.status] += 1
        assert response.status in (200, 202, 400, 404), (number, data, body)
        assert b"Traceback" not in body
    connection.close()
    print(dict(seen))
    assert min(seen[200], seen[202], seen[400]) > CASES / 50
    assert call(api, "triage", input="critical").content[0].text == "critical"


def test_calls_count_as_the_client_s_requests(broker: Mosquitto, tmp_path: Path) -> None:
    audit, limits = tmp_path / "audit.jsonl", {"sender_tokens_per_min": 60}
    with api_node(
        tmp_path, broker.url, api={"mcp": ["say"]}, audit={"file": str(audit)}, limits=limits
    ) as node:
        api = client_of(node)
        tools = with_client(api, lambda client: client.list_tools()).tools
        assert [tool.name for tool in tools] == ["say"]
        answers = [call(api, "say", input="Spindle") for _ in range(12)]
    assert not answers[0].is_error
    assert answers[-1].is_error and "tokens" in answers[-1].content[0].text
    first, *_ = [json.loads(line) for line in audit.read_text().splitlines() if '"api"' in line]
    assert (first["task"], first["reply_to"], first["status"]) == ("say", "#api/app", "ok")
    assert "Spindle" not in audit.read_text()


def test_it_is_off_by_default_and_then_not_loaded(broker: Mosquitto, tmp_path: Path) -> None:
    """What MCP costs in memory, as the README of the benchmarks has it: own pages, not shared ones."""
    own = {}
    for mcp in (False, True):
        folder = tmp_path / str(mcp)
        folder.mkdir()
        with api_node(folder, broker.url, api={"mcp": mcp}) as node:
            api = client_of(node)
            assert api.chat("triage", "critical").status == 200
            assert api.ask("/mcp", LIST, **HEADERS).status == (200 if mcp else 404)
            pid = node.extension(ApiHost).pids["api"]
            time.sleep(0.1)
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
            own[mcp] = sum(
                int(rollup[rollup.index(f"{name}:") + 1]) for name in ("Private_Clean", "Private_Dirty")
            )
            loaded = Path(f"/proc/{pid}/maps").read_text()
            assert ("pydantic_core" in loaded) is mcp
    print(f"own memory of the API process: {own[False] / 1024:.0f} MiB, with MCP {own[True] / 1024:.0f} MiB")
    assert own[True] - own[False] < 60 * 1024
