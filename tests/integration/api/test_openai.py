"""OpenAI's own client against a node with fake engines, and the errors that it must understand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.support.apis import TOKENS, ApiClient

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "turn_on",
            "description": "Turns a device on",
            "parameters": {
                "type": "object",
                "properties": {"device": {"type": "string"}},
                "required": ["device"],
            },
        },
    },
    {"type": "function", "function": {"name": "weather"}},
]


@pytest.fixture
def client(api: ApiClient) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.token, max_retries=0, timeout=60) as client:
        yield client


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_tasks_and_models_are_listed(client: openai.OpenAI) -> None:
    names = [one.id for one in client.models.list()]
    assert names[:2] == ["triage", "strict"]
    assert set(names) >= {"say", "vector", "model:small", "model:encoder"}
    assert client.models.retrieve("model:small").owned_by == "edgeslm"


def test_a_label_with_its_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="triage", messages=ask("critical smoke"), logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    message = choice.message
    assert (message.content, message.refusal, choice.finish_reason) == ("critical", None, "stop")
    assert choice.logprobs is not None and choice.logprobs.content is not None
    (token,) = choice.logprobs.content
    assert token.token == "critical" and token.logprob == pytest.approx(-0.105, abs=0.01)
    assert [one.token for one in token.top_logprobs] == ["critical", "normal"]
    assert answer.usage is not None and answer.usage.total_tokens == 10
    assert answer.to_dict()["edgeslm"]["result"]["label"] == "critical"  # type: ignore[index]


def test_an_abstaining_task_refuses(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="strict", messages=ask("critical")).choices[0].message
    assert message.refusal == message.content == "Not sure enough: critical with a confidence of 0.90."


def test_fields_are_json(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fields", messages=ask("press-4 is hot"))
    assert json.loads(answer.choices[0].message.content or "") == {"machine": "press-4"}


def test_an_answer_cites_its_text(client: openai.OpenAI) -> None:
    options = {"options": {"context": "Error E42 means no oil."}}
    answer = client.chat.completions.create(model="manual", messages=ask("E42?"), extra_body=options)
    assert answer.choices[0].message.content


def test_a_chat(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    for model in ("say", "model:small"):
        answer = client.chat.completions.create(
            model=model, messages=messages, max_tokens=5, temperature=0.5, top_p=0.9, seed=2**40, stop=["."]
        )
        assert answer.choices[0].message.content == "Why?"


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="say", messages=ask("one two three"), stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [text for text in texts if text] == ["one", " two", " three"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_of_a_task_that_writes_no_text(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model="triage", messages=ask("critical"), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "critical"


def test_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(model="say", messages=ask("Paris"), response_format=form)
    assert json.loads(answer.choices[0].message.content or "") == {"city": "press-4"}
    any_object: Any = {"type": "json_object"}
    answer = client.chat.completions.create(model="say", messages=ask("Paris"), response_format=any_object)
    assert json.loads(answer.choices[0].message.content or "") == {}


def test_json_is_asked_for_where_the_answer_is_json(api: ApiClient) -> None:
    told = api.chat("fields", "press 4", response_format={"type": "json_object"}).json
    assert json.loads(told["choices"][0]["message"]["content"]) == {"machine": "press-4"}
    asked = {"model": "triage", "messages": ask("Hi"), "format": "json"}
    assert api.ask("/api/chat", asked).json["error"].endswith("takes no JSON Schema; leave out format.")


def test_tool_calls_go_out_and_results_come_back(client: openai.OpenAI) -> None:
    messages = ask("turn_on the light")
    choice = client.chat.completions.create(model="say", messages=messages, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "turn_on"
    assert json.loads(call.function.arguments) == {"device": "press-4"}
    messages.append(choice.message.to_dict())
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "It is on."})
    choice = client.chat.completions.create(
        model="say", messages=messages, tools=TOOLS, tool_choice="none"
    ).choices[0]
    assert choice.message.content == "It is on."


def test_a_stream_of_a_tool_call(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    chunks = list(
        client.chat.completions.create(
            model="say", messages=ask("Rain?"), tools=TOOLS, tool_choice=named, stream=True
        )
    )
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert call.function is not None and (call.function.name, call.function.arguments) == ("weather", "{}")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings(client: openai.OpenAI, form: Any) -> None:
    found = client.embeddings.create(model="vector", input=["a", "b"], encoding_format=form)
    assert [one.index for one in found.data] == [0, 1]
    if form == "float":
        assert found.data[1].embedding == pytest.approx([0.6, 0.8])
    assert client.embeddings.create(model="model:encoder", input="a").data[0].embedding == pytest.approx(
        [0.6, 0.8]
    )


def test_sixteen_at_once(client: openai.OpenAI) -> None:
    def label(number: int) -> str | None:
        text = "critical" if number % 2 else "fine"
        return client.chat.completions.create(model="triage", messages=ask(text)).choices[0].message.content

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(label, range(64))) == ["normal", "critical"] * 32


GOOD: dict[str, Any] = {"model": "say", "messages": [{"role": "user", "content": "Hi"}]}
DEEP = {
    "role": "assistant",
    "tool_calls": [{"function": {"name": "a", "arguments": "[" * 100_000}}],
}
PICTURE = {"role": "user", "content": [{"type": "image_url"}]}
BAD_BODIES: list[tuple[Any, int, str]] = [
    (b"", 400, "Expecting value"),
    (b"{", 400, ""),
    (b"[]", 400, "must be a JSON object"),
    (b"\xff", 400, "UTF-8"),
    (b'{"a": 1, "a": 2}', 400, "twice"),
    (b"[" * 5000, 400, ""),
    ({}, 400, "model must be"),
    ({**GOOD, "model": 5}, 400, "model must be"),
    ({**GOOD, "model": "nothing"}, 404, "no model 'nothing'"),
    ({**GOOD, "messages": []}, 400, "messages must be"),
    ({**GOOD, "messages": "Hi"}, 400, "messages must be"),
    ({**GOOD, "messages": ["Hi"]}, 400, "Message 1 must be"),
    ({**GOOD, "messages": [{"content": "Hi"}]}, 400, "Message 1: role"),
    ({**GOOD, "messages": [{"role": "judge", "content": "Hi"}]}, 400, "Message 1: role"),
    ({**GOOD, "messages": [{"role": "user", "content": 5}]}, 400, "Message 1: content"),
    ({**GOOD, "messages": [PICTURE]}, 400, "image_url"),
    ({**GOOD, "messages": [{"role": "user", "content": ""}]}, 400, "empty"),
    ({**GOOD, "messages": [{"role": "system", "content": "Hi"}]}, 400, "last message"),
    ({**GOOD, "n": 2}, 400, "n must be 1"),
    ({**GOOD, "temperature": "hot"}, 400, "temperature must be"),
    ({**GOOD, "temperature": 3}, 400, "temperature must be"),
    ({**GOOD, "top_p": -1}, 400, "top_p must be"),
    ({**GOOD, "max_tokens": 0}, 400, "max_tokens must be"),
    ({**GOOD, "seed": "x"}, 400, "seed must be"),
    ({**GOOD, "stop": [5]}, 400, "stop must be"),
    ({**GOOD, "stop": [str(n) for n in range(17)]}, 400, "'stop' must be"),
    ({**GOOD, "stream": "yes"}, 400, "stream must be"),
    ({**GOOD, "response_format": {"type": "xml"}}, 400, "response_format.type"),
    ({**GOOD, "response_format": {"type": "json_schema"}}, 400, "json_schema.schema"),
    ({**GOOD, "tools": "x"}, 400, "tools must be"),
    ({**GOOD, "messages": [DEEP, *GOOD["messages"]]}, 400, "the arguments of a tool call"),
    ({**GOOD, "options": {"max_tokens": "many"}}, 400, "'max_tokens' must be"),
    ({**GOOD, "tools": [{"function": {"name": "a", "parameters": {"$ref": "http://x"}}}]}, 400, "type"),
    ({**GOOD, "tools": [{"type": "function"}]}, 400, "Tool 1"),
    ({**GOOD, "tools": TOOLS, "tool_choice": "dance"}, 400, "tool_choice must be"),
    ({**GOOD, "tools": [{"function": {"name": "a b"}}]}, 400, "tool number 1 ('a b'): `name` must have"),
    ({**GOOD, "tools": [*TOOLS, {"function": {"name": "b", "parameters": [1]}}]}, 400, "('b'): `parameters`"),
    ({**GOOD, "options": {"labels": ["a", "b"]}}, 400, "does not let senders set"),
    ({**GOOD, "options": {"max_token": 1}}, 400, "no option 'max_token'"),
    ({**GOOD, "model": "vector"}, 400, "makes embeddings"),
    ({**GOOD, "model": "triage", "response_format": {"type": "json_object"}}, 400, "out response_format"),
    ({**GOOD, "messages": [{"role": "user", "content": "fail too_long"}]}, 400, "told to"),
    ({**GOOD, "messages": [{"role": "user", "content": "fail no_memory"}]}, 503, "told to"),
]


OVERSIZED = (
    "a" * 1_000_000,
    "(a{1000}){1000}",
    "a{99999999999}",
    "(" * 9000 + "a" + ")" * 9000,
    r"\w{400}",
    "|".join(["(?:.|é)*"] * 2000),
    "[" * 15_000,
)


@pytest.mark.parametrize("pattern", OVERSIZED, ids=range(len(OVERSIZED)))
def test_an_oversized_pattern_is_a_400_at_once(api: ApiClient, pattern: str) -> None:
    field = {"type": "string", "pattern": pattern}
    schema = {"type": "object", "properties": {"a": field}}
    named = {"type": "object", "patternProperties": {pattern: {}}}
    tool: dict[str, Any] = {"type": "function", "function": {"name": "odd", "parameters": schema}}
    form = {"type": "json_schema", "schema": named}
    mine = [{"role": "user", "content": "Hi"}]
    started = time.monotonic()
    for path, body in (
        ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": form}}),
        ("/v1/chat/completions", {"tools": [tool]}),
        ("/v1/responses", {"input": "Hi", "text": {"format": {**form, "schema": schema}}}),
        ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **tool["function"]}]}),
        ("/api/chat", {"format": schema}),
        ("/api/chat", {"tools": [tool]}),
        ("/api/generate", {"prompt": "Hi", "format": named}),
    ):
        reply = api.ask(path, {"model": "say", "messages": mine, **body})
        assert reply.status == 400, (path, reply.text[:300])
        error = reply.json["error"]
        message = error if path.startswith("/api/") else error["message"]
        assert ("options.tools: odd: parameters" if "tools" in body else "options.schema") in message
        assert len(message) < 500
    assert time.monotonic() - started < 30
    assert api.chat("say", "Hi").status == 200


@pytest.mark.parametrize(("body", "status", "words"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_bad_input_has_openais_error(api: ApiClient, body: Any, status: int, words: str) -> None:
    reply = api.ask("/v1/chat/completions", body)
    assert reply.status == status, reply.text
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")


def test_codes_that_clients_know(api: ApiClient, client: openai.OpenAI) -> None:
    assert api.chat("say", "fail too_long").json["error"]["code"] == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nothing", messages=ask("x"))
    assert raised.value.code == "model_not_found"
    busy = api.chat("say", "fail busy")
    assert (busy.status, busy.headers["retry-after"]) == (429, "1")
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="say", messages=ask("fail busy"))
    wrong = openai.OpenAI(base_url=f"{api.url}/v1", api_key="x" * 20, max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_an_error_after_the_first_piece_ends_the_stream(api: ApiClient) -> None:
    reply = api.chat("say", "fail internal", stream=True)
    assert reply.status == 500  # before the first piece
    assert reply.json["error"]["type"] == "server_error"


def test_a_repeat_is_asked_for_only_where_it_helps(api: ApiClient) -> None:
    for code in ("poisoned", "timeout", "cancelled", "internal"):
        assert api.chat("say", f"fail {code}").headers["x-should-retry"] == "false"
    assert "x-should-retry" not in api.chat("say", "fail busy").headers


def test_paths_that_are_not_there(api: ApiClient) -> None:
    assert api.ask("/nothing").json["error"]["code"] is None
    for path in ("/v1/nothing", "/v1", "/v1/chat"):
        assert api.ask(path).json["error"]["type"] == "invalid_request_error"
    assert api.ask("/v1/chat/completions").status == 405
    assert api.ask("/api/nothing").json["error"].startswith("There is no such path")
    assert "set api.mcp" in api.ask("/mcp", {}).json["error"]["message"]
    for path in ("/api/pull", "/api/delete", "/api/blobs/sha256:0"):
        assert api.ask(path, {"model": "x"}).json["error"].startswith("Models can't be changed here")


def test_an_engine_that_is_killed_is_an_answer_or_a_5xx(api: ApiClient, tmp_path: Any) -> None:
    started = time.monotonic()
    reply = api.chat("say", f"crash-once {tmp_path / 'flag'}")
    assert reply.status == 200
    assert api.chat("say", "crash").status >= 500
    assert time.monotonic() - started < 60
    assert TOKENS["app"] not in reply.text
