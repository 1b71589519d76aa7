"""Ollama's own client against a node with fake engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.support.apis import ApiClient


@pytest.fixture
def client(api: ApiClient) -> Iterator[ollama.Client]:
    headers = {"Authorization": f"Bearer {api.token}"}
    with ollama.Client(host=api.url, headers=headers, timeout=60) as client:
        yield client


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_tasks_and_models_are_listed(client: ollama.Client, api: ApiClient) -> None:
    names = [one.model for one in client.list().models]
    assert names[:2] == ["triage", "strict"] and "model:small" in names
    shown = client.show("model:small")
    assert shown.capabilities == ["completion", "tools"]
    assert client.show("vector").capabilities == ["embedding"]
    assert client.ps().models
    assert api.ask("/api/version").json["version"]


def test_a_chat(client: ollama.Client) -> None:
    options = {"temperature": 0.2, "num_predict": 20, "seed": 1, "stop": ["."], "num_ctx": 4096}
    answer = client.chat("say", [{"role": "system", "content": "Be brief."}, *ask("Hi")], options=options)
    assert (answer.message.content, answer.done, answer.done_reason) == ("Hi", True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (7, 3)
    assert client.chat("triage:latest", ask("critical")).message.content == "critical"


def test_a_stream(client: ollama.Client) -> None:
    pieces = list(client.chat("say", ask("one two"), stream=True))
    assert [one.message.content for one in pieces] == ["one", " two", ""]
    assert [one.done for one in pieces] == [False, False, True]


def test_a_format(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    answer = client.chat("say", ask("Paris"), format=schema)
    assert json.loads(answer.message.content or "") == {"city": "press-4"}
    assert client.chat("say", ask("Paris"), format="json").message.content == "{}"


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(client: ollama.Client, stream: Any) -> None:
    def turn_on(device: str) -> str:
        """Turns a device on.

        Args:
            device: the device
        """
        return device

    answers = client.chat("say", ask("turn_on the light"), tools=[turn_on], stream=stream)
    found = list(answers) if stream else [answers]
    (call,) = [call for one in found for call in one.message.tool_calls or ()]
    assert (call.function.name, dict(call.function.arguments)) == ("turn_on", {"device": "press-4"})
    messages = [*ask("turn_on"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    answer = client.chat("say", [*messages, {"role": "tool", "content": "It is on."}])
    assert answer.message.content == "It is on."


def test_a_text(client: ollama.Client, api: ApiClient) -> None:
    answer = client.generate("model:small", "Hi", system="Be brief.")
    assert (answer.response, answer.done) == ("Hi", True)
    assert "".join(one.response or "" for one in client.generate("say", "a b", stream=True)).split() == [
        "a",
        "b",
    ]
    assert api.ask("/api/generate", {"model": "say"}).json["done_reason"] == "load"
    assert client.chat("say").done_reason == "load"


def test_embeddings(client: ollama.Client) -> None:
    assert client.embed("vector", ["a", "b"]).embeddings[1] == pytest.approx([0.6, 0.8])
    assert client.embeddings("vector", "a").embedding == pytest.approx([0.6, 0.8])


def test_errors(client: ollama.Client, api: ApiClient) -> None:
    with pytest.raises(ollama.ResponseError, match="no model 'nothing'") as raised:
        client.chat("nothing", ask("x"))
    assert raised.value.status_code == 404
    image = {"role": "user", "content": "x", "images": ["y"]}
    for more in ({"format": 5}, {"options": ["x"]}, {"messages": [image]}, {"options": {"stop": [{"a": 1}]}}):
        reply = api.ask("/api/chat", {"model": "say", "messages": ask("x"), **more})
        assert (reply.status, set(reply.json)) == (400, {"error"})
