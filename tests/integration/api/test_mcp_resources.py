"""Document collections as resources of the official MCP client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from mcp import Client
from mcp.types import TextResourceContents

from edgeslm.api.host import ApiHost
from edgeslm.api.wire import Browse
from edgeslm.knowledge.index.collection import Collection
from tests.support.apis import api_node, client_of
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.knowledge.collection_samples import make_document, make_origin
from tests.support.mcp_clients import MODES, call, error_of, with_client
from tests.support.nodes import TASKS, Node

COLLECTIONS = ("manuals", "private", "unused")
KNOWLEDGE = "edgeslm:///knowledge/"


@pytest.fixture(scope="module")
def library(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with three collections, the last one of no task; the client ``few`` may search the first."""
    folder = tmp_path_factory.mktemp("library")
    for name in COLLECTIONS:
        with Collection(folder / name, writes=True) as collection:
            for source in ("press/oil ü 50%.md", "a?b#c.md"):
                texts = ("Oil the press.", f"Each week, says {name}.")
                collection.put(*make_document(source, *texts, headings=(("Oil",), ("Oil",))), make_origin())
            collection.put(*make_document("long.md", *["word " * 200] * 300, title="Long"), make_origin())
    tasks = {
        "triage": {"kind": "search", "knowledge": ["manuals"]},
        "quote": {"kind": "answer", "knowledge": ["private", "manuals"], "allow": ["knowledge"]},
        "say": TASKS["say"],
    }
    with api_node(
        folder,
        module_broker.url,
        api={"mcp": True},
        tasks=tasks,
        knowledge={name: {"path": str(folder / name)} for name in COLLECTIONS},
        audit={"file": str(folder / "audit.jsonl")},
    ) as node:
        yield node


@pytest.mark.parametrize("mode", MODES)
def test_collections_are_resources(library: Node, mode: str) -> None:
    async def use(client: Client) -> None:
        resources = (await client.list_resources()).resources
        assert [one.uri for one in resources] == [f"{KNOWLEDGE}manuals", f"{KNOWLEDGE}private"]
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == KNOWLEDGE + "{collection}/{+source}"
        (content,) = (await client.read_resource(f"{KNOWLEDGE}private")).contents
        assert isinstance(content, TextResourceContents) and content.mime_type == "application/json"
        found = json.loads(content.text)
        assert found["total"] == 3
        assert [one["source"] for one in found["documents"]] == ["long.md", "a?b#c.md", "press/oil ü 50%.md"]
        assert found["documents"][1] | {"uri": ""} == {
            "source": "a?b#c.md",
            "title": "a?b#c.md",
            "modified": "1970-01-01T00:00:00+00:00",
            "passages": 2,
            "uri": "",
        }
        for document in found["documents"][1:]:
            (content,) = (await client.read_resource(document["uri"])).contents
            assert isinstance(content, TextResourceContents) and content.mime_type == "text/plain"
            assert content.text == "Oil\n\nOil the press.\n\nEach week, says private."
        (content,) = (await client.read_resource(found["documents"][0]["uri"])).contents
        assert isinstance(content, TextResourceContents)
        assert content.text.endswith("[The rest of this document is left out.]")
        assert 200_000 <= len(content.text) < 201_000

    with_client(client_of(library), use, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("uri", "code", "part"),
    [
        (f"{KNOWLEDGE}nothing", -32602, "There is no resource 'edgeslm:///knowledge/nothing' here"),
        (f"{KNOWLEDGE}manuals/../private", -32602, "The collection manuals has no such document."),
        (f"{KNOWLEDGE}manuals/" + "x" * 5000, -32602, "no such document"),
        (f"{KNOWLEDGE}manuals/%ff%00", -32602, "no such document"),
        (KNOWLEDGE, -32602, "no resource"),
        ("file:///etc/passwd", -32602, "no resource"),
        ("", -32602, "no resource"),
        ("manuals", -32602, "no resource"),
    ],
)
def test_wrong_resources(library: Node, mode: str, uri: str, code: int, part: str) -> None:
    error = error_of(client_of(library), lambda client: client.read_resource(uri), mode)
    assert (error.code, part in error.message) == (code, True), error.message


@pytest.mark.parametrize("mode", MODES)
def test_a_token_s_tasks_have_its_resources(library: Node, mode: str) -> None:
    few = client_of(library, "few")  # may use the task that searches manuals
    resources = with_client(few, lambda client: client.list_resources(), mode).resources
    assert [one.name for one in resources] == ["manuals"]
    assert with_client(few, lambda client: client.read_resource(f"{KNOWLEDGE}manuals"), mode).contents
    for uri in (f"{KNOWLEDGE}private", f"{KNOWLEDGE}private/long.md"):
        error = error_of(few, lambda client, uri=uri: client.read_resource(uri), mode)  # type: ignore[misc]
        assert "there are: manuals." in error.message
    file = library.daemon.config.audit.file
    assert file is not None
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    read = [line for line in lines if line["what"] == "read" and line["reply_to"] == "#api/few"]
    assert read[-1] | {"at": ""} == {
        "at": "",
        "what": "read",
        "knowledge": "manuals",
        "reply_to": "#api/few",
        "status": "ok",
    }


def test_a_search_returns_passages(library: Node) -> None:
    answer = call(client_of(library), "triage", input="oil", sources="press/*")
    assert answer.structured_content["result"]["passages"][0]["source"] == "press/oil ü 50%.md"
    answer = call(client_of(library), "quote", input="How often is the press oiled?", knowledge=["private"])
    assert not answer.is_error


def test_a_compromised_process_reads_no_other_collection(library: Node) -> None:
    host, sent = library.extension(ApiHost), []
    with pytest.raises(ValueError, match="unknown client"):
        host.heard(Browse(1, "nobody", "manuals", None))
    told = threading.Event()

    def send(number: int, result: bytes) -> None:
        sent.append(json.loads(result))
        told.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "_send", send)
        library.run(lambda: host.heard(Browse(10**6, "app", "unused", None)))
        assert told.wait(WAIT_S)
    assert sent[0]["error"] == {"code": "invalid_request", "message": "no tool searches such a collection"}
