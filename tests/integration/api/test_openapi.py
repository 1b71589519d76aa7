"""The OpenAPI document: valid, up to date, with all paths; real answers of a node fit it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Route

from edgeslm.api.node import NodeLink
from edgeslm.api.openapi import OPERATIONS, Operation, document
from edgeslm.api.web import Guard, make_app
from edgeslm.tasks.rerank import MOST_DOCUMENTS
from tests.support.apis import ApiClient, api_node, client_of
from tests.support.brokers import Mosquitto
from tests.support.nodes import Node, fake_configuration, write_reader
from tests.support.paths import ROOT

FILE = ROOT / "docs/reference/openapi.yaml"
ASK = [{"role": "user", "content": "one two critical"}]
TOOL = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    models = fake_configuration("", folder)["models"]
    models["reader"] = {"bundle": str(write_reader(folder / "reader"))}
    with api_node(folder, module_broker.url, models=models, api={"mcp": True}) as node:
        yield node


@pytest.fixture
def api(node: Node) -> ApiClient:
    return client_of(node)


def strict(schema: Any) -> Any:
    """The schema without other fields than it names, so that none is missing in it."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if (
        "properties" in schema
        and isinstance(schema["properties"], Mapping)
        and schema.get("type") == "object"
    ):
        found.setdefault("additionalProperties", False)
    return found


def check(name: str, value: Any) -> None:
    components = {"components": {"schemas": strict(document()["components"]["schemas"])}}
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{name}", **components})
    faults = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not faults, (name, faults, value)


def events(text: str) -> list[Any]:
    """The data of server-sent events, or lines of JSON."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line[:1] in ("d", "{")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_it_is_valid_and_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/openapi.py"], capture_output=True, text=True, check=True
    )
    assert FILE.read_text("utf-8") == done.stdout, "scripts/openapi.py >docs/reference/openapi.yaml"
    validate(yaml.safe_load(done.stdout))
    ids = [one.id for one in OPERATIONS]
    assert len(set(ids)) == len(ids)
    schemas = document()["components"]["schemas"]
    assert schemas["RerankRequest"]["properties"]["documents"]["maxItems"] == MOST_DOCUMENTS
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    used = set(json.dumps(document()).split('"'))
    assert all(f"#/components/schemas/{name}" in used for name in schemas)


def test_it_has_all_paths_of_the_app() -> None:
    settings = {"body_bytes": 1, "hosts": [], "secure": False}

    async def nothing(*arguments: Any) -> None: ...

    app = make_app(NodeLink(print, 1.0, anonymous=False), settings, nothing)
    assert isinstance(app, Guard) and isinstance(app._app, Starlette)
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in app._app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == {(one.method, one.path) for one in OPERATIONS}


BODIES: Mapping[str, list[dict[str, Any]]] = {
    "createChatCompletion": [
        {"model": "say", "messages": ASK, "max_tokens": 5, "temperature": 0.5, "seed": 1, "stop": "x"},
        {"model": "triage", "messages": ASK, "logprobs": True, "top_logprobs": 2, "options": {"priority": 9}},
        {"model": "strict", "messages": ASK},
        {"model": "fields", "messages": ASK},
        {"model": "manual", "messages": ASK, "options": {"context": "One two."}},
        {"model": "say", "messages": ASK, "tools": [TOOL], "tool_choice": "required"},
        {"model": "say", "messages": ASK, "response_format": {"type": "json_object"}},
        {"model": "model:small", "messages": [*ASK, {"role": "assistant", "content": None}, *ASK]},
    ],
    "createResponse": [
        {"model": "say", "input": "Hi", "instructions": "Be brief.", "max_output_tokens": 5},
        {"model": "strict", "input": "critical"},
        {"model": "say", "input": "Hi", "tools": [{"type": "function", **TOOL["function"]}]},  # type: ignore[dict-item]
    ],
    "createEmbeddings": [
        {"model": "vector", "input": "a"},
        {"model": "model:encoder", "input": ["a", "b"], "encoding_format": "base64"},
    ],
    "rerank": [
        {"model": "model:reader", "query": "a", "documents": ["0.3 b", {"text": "c"}], "top_n": 1},
        {"model": "model:reader", "query": "a", "documents": ["b"], "return_documents": True},
    ],
    "ollamaShow": [{"model": "say"}, {"model": "vector"}, {"model": "model:reader"}],
    "ollamaChat": [
        {"model": "say", "messages": ASK, "options": {"num_predict": 5, "stop": ["x"]}, "stream": False},
        {"model": "say", "messages": ASK, "tools": [TOOL], "stream": False},
        {"model": "say"},
    ],
    "ollamaGenerate": [
        {"model": "say", "prompt": "Hi", "system": "Be brief.", "format": "json", "stream": False},
        {"model": "say", "prompt": ""},
    ],
    "ollamaEmbed": [{"model": "vector", "input": ["a", "b"]}],
    "ollamaEmbedding": [{"model": "vector", "prompt": "a"}],
    "mcp": [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}],
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.id)
def test_real_answers_fit_it(api: ApiClient, operation: Operation) -> None:
    path = operation.path.replace("{name}", "model:small")
    headers = {"accept": "application/json, text/event-stream", "content_type": "application/json"}
    if operation.request is None:
        reply = api.ask(path)
        assert reply.status == 200
        if operation.answer is not None:
            check(operation.answer, reply.json)
        return
    kind = "rerank" if operation.id.startswith("rerank") else operation.id
    for body in BODIES[kind]:
        check(operation.request, body)
        reply = api.ask(path, body, **headers)
        assert reply.status == 200, reply.text
        assert operation.answer is not None
        check(operation.answer, events(reply.text)[0] if path == "/mcp" else reply.json)
        if operation.pieces is not None and path != "/mcp":
            extra = {"stream_options": {"include_usage": True}} if path.startswith("/v1/chat") else {}
            pieces = events(api.ask(path, {**body, "stream": True, **extra}).text)
            assert pieces
            for piece in pieces:
                check(operation.pieces, piece)


@pytest.mark.parametrize("operation", OPERATIONS[1:], ids=lambda one: one.id)
def test_errors_fit_it(api: ApiClient, node: Node, operation: Operation) -> None:
    path = operation.path.replace("{name}", "nothing")
    name = "OllamaError" if operation.is_ollama else "Error"
    replies = [client_of(node, None).ask(path), api.ask(path, method="PATCH")]
    if operation.request is not None:
        replies += [api.ask(path, b"{"), api.ask(path, {"model": "nothing", "messages": ASK})]
    elif "{name}" in operation.path:
        replies.append(api.ask(path))
    for reply in replies:
        assert reply.status >= 400
        if path != "/mcp" or reply.status in (401, 405):
            check(name, reply.json)


def test_a_busy_node_says_when_to_repeat(api: ApiClient) -> None:
    reply = api.chat("say", "fail busy")
    assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1
    check("Error", reply.json)


def test_it_is_linked() -> None:
    assert "(../reference/openapi.yaml)" in Path(ROOT, "docs/guides/api.md").read_text("utf-8")
