"""The Responses dialect by OpenAI's own client, against a node with fake engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.apis import ApiClient

TOOLS: Any = [
    {
        "type": "function",
        "name": "turn_on",
        "parameters": {"type": "object", "properties": {"device": {"type": "string"}}},
        "strict": False,
    }
]


@pytest.fixture
def client(api: ApiClient) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.token, max_retries=0, timeout=60) as client:
        yield client


def test_a_text(client: openai.OpenAI) -> None:
    found = client.responses.create(model="say", instructions="Be brief.", input="Hi", max_output_tokens=5)
    assert (found.output_text, found.status) == ("Hi", "completed")
    assert found.usage is not None and found.usage.total_tokens == 10
    chat: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
        {"type": "message", "role": "user", "content": "Why?"},
    ]
    assert client.responses.create(model="model:small", input=chat).output_text == "Why?"
    assert client.responses.create(model="triage", input="critical").output_text == "critical"


def test_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="say", input="one two three") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "one two three"
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds.count("response.output_text.delta") == 3
    assert kinds[-1] == "response.completed"


def test_an_abstaining_task_refuses(client: openai.OpenAI) -> None:
    found: Any = client.responses.create(model="strict", input="critical")
    assert found.output[0].content[0].refusal.startswith("Not sure enough")
    again: Any = [{"role": "user", "content": "x"}, found.output[0].to_dict()]
    again.append({"role": "user", "content": "critical"})
    assert client.responses.create(model="triage", input=again).output_text == "critical"
    events: Any = list(client.responses.create(model="strict", input="critical", stream=True))
    assert any(event.type == "response.refusal.done" for event in events)


def test_calls_go_out_and_results_come_back(client: openai.OpenAI) -> None:
    chat: Any = [{"role": "user", "content": "turn_on the light"}]
    found: Any = client.responses.create(model="say", input=chat, tools=TOOLS, tool_choice="required")
    (call,) = found.output
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "turn_on",
        {"device": "press-4"},
    )
    chat += [
        call.to_dict(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "It is on."},
    ]
    answer = client.responses.create(model="say", input=chat, tools=TOOLS, tool_choice="none")
    assert answer.output_text == "It is on."
    named: Any = {"type": "function", "name": "turn_on"}
    with client.responses.stream(model="say", input="On!", tools=TOOLS, tool_choice=named) as stream:
        kinds = [event.type for event in stream]
    assert "response.function_call_arguments.done" in kinds


def test_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form: Any = {"format": {"type": "json_schema", "name": "city", "schema": schema}}
    answer = client.responses.create(model="say", input="Paris", text=form)
    assert json.loads(answer.output_text) == {"city": "press-4"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "input must be"),
        ({"input": []}, "input must be"),
        ({"input": [5]}, "Item 1 of input must be"),
        ({"input": [{"type": "image"}]}, "Item 1 of input has the type"),
        ({"input": "x", "previous_response_id": "y"}, "previous_response_id isn't supported"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "no built-in tools"),
        ({"input": "x", "text": 5}, "text must be"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens must be a whole number"),
        ({"input": "x", "text": {"format": 5}}, "text.format.type must be"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type must be"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema must be"),
        (
            {"input": "x", "model": "triage", "text": {"format": {"type": "json_object"}}},
            "leave out text.format",
        ),
    ],
)
def test_bad_input(api: ApiClient, body: dict[str, Any], words: str) -> None:
    reply = api.ask("/v1/responses", {"model": "say", **body})
    assert (reply.status, words in reply.json["error"]["message"]) == (400, True), reply.text
