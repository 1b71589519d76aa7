"""Reranking in the form of llama.cpp's server, against a node with a fake reader and a fake decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apis import ApiClient, api_node, client_of
from tests.support.brokers import Mosquitto
from tests.support.nodes import Node, fake_configuration, write_reader

DOCUMENTS = ["0.2 Wash the belt.", "0.9 Oil the press each week.", "0.4 Press the button."]


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    models = fake_configuration("", folder)["models"]
    reader = {"bundle": str(write_reader(folder / "reader"))}
    with api_node(folder, module_broker.url, models={**models, "reader": reader}) as node:
        yield node


@pytest.fixture
def api(node: Node) -> ApiClient:
    return client_of(node)


def ask(api: ApiClient, path: str = "/v1/rerank", **body: Any) -> Any:
    return api.ask(path, {"model": "model:reader", "query": "How often?", "documents": DOCUMENTS, **body})


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
def test_documents_are_ranked(api: ApiClient, path: str) -> None:
    reply = ask(api, path)
    assert reply.status == 200
    assert reply.json == {
        "model": "model:reader",
        "object": "list",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "results": [
            {"index": 1, "relevance_score": 0.9},
            {"index": 2, "relevance_score": 0.4},
            {"index": 0, "relevance_score": 0.2},
        ],
    }


def test_the_best_alone_with_their_texts(api: ApiClient) -> None:
    reply = ask(api, top_n=1, return_documents=True)
    assert reply.json["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": DOCUMENTS[1]}}]
    assert [one["index"] for one in ask(api, top_n=100).json["results"]] == [1, 2, 0]
    assert ask(api, documents=[{"text": "0.7 a"}, "0.8 b"]).json["results"][0]["index"] == 1


def test_many_and_long_documents(api: ApiClient) -> None:
    documents = [f"0.{number:03} " + "word " * 500 for number in range(256)]
    results = ask(api, documents=documents).json["results"]
    assert [one["index"] for one in results] == list(reversed(range(256)))
    assert ask(api, documents=["0.3 " + "x" * 900_000, ""]).json["results"][0]["relevance_score"] == 0.5


def test_documents_that_are_cut_are_named(api: ApiClient) -> None:
    documents = ["0.1 a b", "0.2 a b c", "0.3 " + "x" * 900_000, "0.4 a b c"]
    reply = ask(api, documents=documents, max_tokens_per_doc=3)
    assert [one["index"] for one in reply.json["results"]] == [3, 2, 1, 0]
    assert reply.json["meta"] == {
        "warnings": ["The ends of documents that are too long weren't read: index 1, 2, 3."]
    }
    assert "meta" not in ask(api, documents=documents[:2], max_tokens_per_doc=4).json
    assert "meta" not in ask(api, documents=documents[:2], max_tokens_per_doc=None, truncate=False).json
    reply = ask(api, documents=documents, max_tokens_per_doc=3, truncate=False)
    assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
    assert "ocument 2 has more than 3 tokens" in reply.json["error"]["message"]


def test_options_of_edgeslm(api: ApiClient) -> None:
    assert ask(api, options={"priority": 9, "deadline_ms": 60_000}).status == 200
    assert ask(api, options={"priority": 10}).status == 400
    assert ask(api, options={"temperature": 1}).status == 400
    assert ask(api, options=7).status == 400


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"query": None}, "query must be a text."),
        ({"query": "  "}, "query must be a text."),
        ({"query": ["a"]}, "query must be a text."),
        ({"documents": []}, "documents must be a list with at least one text."),
        ({"documents": "text"}, "documents must be a list with at least one text."),
        ({"documents": ["a", 7]}, "Document 2 must be a text, or an object with text."),
        ({"documents": [{"image": "x"}]}, "Document 1 must be a text, or an object with text."),
        ({"documents": ["a"] * 257}, "Documents must have 1 to 256 texts, not 257."),
        ({"top_n": 0}, "top_n must be a whole number above 0."),
        ({"top_n": True}, "top_n must be a whole number above 0."),
        ({"top_n": 1.5}, "top_n must be a whole number above 0."),
        ({"return_documents": "yes"}, "return_documents must be true or false."),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc must be a whole number above 0."),
        ({"max_tokens_per_doc": True}, "max_tokens_per_doc must be a whole number above 0."),
        ({"truncate": "END"}, "Truncate must be true or false."),
        (
            {"model": "model:encoder"},
            "model:encoder ranks no documents: it is of kind embed. Name model:NAME of a reader or decoder.",
        ),
        (
            {"model": "triage"},
            "triage ranks no documents: it is of kind classify. Name model:NAME of a reader or decoder.",
        ),
    ],
)
def test_wrong_requests(api: ApiClient, body: dict[str, Any], sentence: str) -> None:
    reply = ask(api, **body)
    assert (reply.status, reply.json["error"]["message"]) == (400, sentence)


def test_a_reader_does_nothing_else(api: ApiClient) -> None:
    assert ask(api, model="nothing").status == 404
    reply = api.chat("model:reader", "Hi")
    assert (reply.status, reply.json["error"]["message"]) == (
        400,
        "model:reader ranks documents; ask it at /v1/rerank.",
    )
    assert api.ask("/v1/embeddings", {"model": "model:reader", "input": "a"}).status == 400
    assert api.ask("/v1/models/model:reader").json["edgeslm"]["kind"] == "rerank"
    assert api.ask("/api/show", {"model": "model:reader"}).json["capabilities"] == []


def test_errors_and_access(api: ApiClient, node: Node, tmp_path: Path) -> None:
    assert ask(api, query="fail no_memory").status == 503
    assert ask(api, query=f"crash-once {tmp_path / 'flag'}").status == 200
    assert ask(client_of(node, "few")).status == 404
    assert ask(client_of(node, None)).status == 401


def test_a_decoder_ranks_too_and_still_writes(api: ApiClient) -> None:
    reply = ask(api, model="model:small", top_n=2)
    assert reply.status == 200
    assert reply.json["model"] == "model:small"
    assert [one["index"] for one in reply.json["results"]] == [1, 2]
    shown = api.ask("/v1/models/model:small").json["edgeslm"]
    assert shown["kind"] == "generate" and "reranker" not in shown
    assert api.chat("model:small", "Hi").status == 200


def test_the_task_of_a_decoder_has_no_name_of_its_own(api: ApiClient, node: Node) -> None:
    names = [one["id"] for one in api.ask("/v1/models").json["data"]]
    assert not [name for name in names if name.startswith("rerank:")]
    assert ask(api, model="rerank:small").status == 404
    assert ask(client_of(node, "few"), model="model:small").status == 404
    assert ask(api, model="model:small", query="fail too_long").status == 400
    assert ask(api, model="say").json["error"]["message"] == (
        "say ranks no documents: it is of kind generate. Name model:NAME of a reader or decoder."
    )
