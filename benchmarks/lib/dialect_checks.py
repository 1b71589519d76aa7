"""What OpenAI's and Ollama's official clients can do with a server: one function a feature.

A check returns nothing, or a remark for the table; it raises where the server doesn't support the feature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx
import ollama
import openai

SCHEMA: Final = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
PARAMETERS: Final = {
    "type": "object",
    "properties": {"device": {"type": "string", "enum": ["lamp", "fan"]}},
    "required": ["device"],
    "additionalProperties": False,
}
TOOLS: Final[Any] = [
    {
        "type": "function",
        "function": {"name": name, "description": f"Turns a device {way}", "parameters": PARAMETERS},
    }
    for name, way in (("turn_on", "on"), ("turn_off", "off"))
]


class Unsupported(Exception):
    """The server does something else; the text says what, if that is known."""


def need(condition: object, words: str = "another answer") -> None:
    """:raises Unsupported: the condition isn't met."""
    if not condition:
        raise Unsupported(words)


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and the names of its models: of chats, embeddings and labels. ``opened`` has the clients."""

    url: str
    token: str
    chat: str
    embed: str
    labels: str
    embed_url: str = ""
    """Of a second server, where one process has one model."""
    reader: str = ""
    """Of a reader that ranks documents; without one, the encoder is asked."""
    opened: ExitStack = field(default_factory=ExitStack)

    def openai(self, *, embeds: bool = False) -> openai.OpenAI:
        url = (embeds and self.embed_url) or self.url
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=self.token, max_retries=0, timeout=300)
        return self.opened.enter_context(client)

    def ollama(self) -> ollama.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        client = ollama.Client(self.url, headers=headers, timeout=300)
        self.opened.callback(client.close)
        return client

    def say(self, text: str = "Say hello.", **options: Any) -> Any:
        messages: Any = options.pop("messages", [{"role": "user", "content": text}])
        options = {"model": self.chat, "max_tokens": 24, "temperature": 0, **options}
        return self.openai().chat.completions.create(messages=messages, **options)


def models(site: Site) -> None:
    need(site.chat in {one.id for one in site.openai().models.list()})


def chat(site: Site) -> None:
    answer = site.say()
    need(answer.choices[0].message.content and answer.usage.completion_tokens)


def developer(site: Site) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    need(site.say(messages=messages).choices[0].message.content)


def stream(site: Site) -> None:
    chunks = list(site.say("Count to five.", stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    need(len([piece for piece in pieces if piece]) > 1 and chunks[-1].usage.total_tokens)


def max_tokens(site: Site) -> None:
    choice = site.say("Count to a hundred.", max_tokens=4).choices[0]
    need(choice.finish_reason == "length")


def stop(site: Site) -> None:
    whole = site.say("Count to five.").choices[0].message.content
    word = whole[len(whole) // 2 :].split()[0]
    need(word not in site.say("Count to five.", stop=[word]).choices[0].message.content)


def seed(site: Site) -> None:
    told = [site.say("Write a word.", seed=7, temperature=1.5).choices[0].message.content for _ in range(3)]
    need(len(set(told)) == 1)


def several_choices(site: Site) -> None:
    need(len(site.say(n=2, temperature=1).choices) == 2)


def json_schema(site: Site) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    answer = json.loads(site.say("Name a city of Italy.", response_format=form).choices[0].message.content)
    need(set(answer) == {"city"})


def json_object(site: Site) -> None:
    form = {"type": "json_object"}
    answer = site.say('Answer with {"city": NAME}.', response_format=form, max_tokens=48)
    need(isinstance(json.loads(answer.choices[0].message.content), dict))


def _check(call: Any) -> Mapping[str, Any]:
    arguments: Mapping[str, Any] = json.loads(call.function.arguments)
    need(call.function.name in ("turn_on", "turn_off") and arguments["device"] in ("lamp", "fan"))
    return arguments


def tools(site: Site) -> str:
    message = site.say("Turn on the lamp.", tools=TOOLS, max_tokens=64).choices[0].message
    if not message.tool_calls:
        return "yes; this model answered in words"
    _check(message.tool_calls[0])
    return ""


def tool_required(site: Site) -> None:
    choice = site.say("Turn on the lamp.", tools=TOOLS, tool_choice="required", max_tokens=64).choices[0]
    need(choice.finish_reason == "tool_calls")
    _check(choice.message.tool_calls[0])


def tool_named(site: Site) -> None:
    named = {"type": "function", "function": {"name": "turn_off"}}
    choice = site.say("Turn on the lamp.", tools=TOOLS, tool_choice=named, max_tokens=64).choices[0]
    need({call.function.name for call in choice.message.tool_calls} == {"turn_off"})
    _check(choice.message.tool_calls[0])


def tool_none(site: Site) -> None:
    message = site.say("Turn on the lamp.", tools=TOOLS, tool_choice="none").choices[0].message
    need(message.content and not message.tool_calls)


def several_calls(site: Site) -> str:
    text = "Turn on the lamp and turn on the fan."
    message = site.say(text, tools=TOOLS, tool_choice="required", parallel_tool_calls=True, max_tokens=96)
    calls = message.choices[0].message.tool_calls
    for call in calls:
        _check(call)
    return f"yes; this model made {len(calls)}"


def one_call(site: Site) -> None:
    text = "Turn on the lamp and turn on the fan."
    message = site.say(text, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=96)
    (call,) = message.choices[0].message.tool_calls
    _check(call)


def tool_results(site: Site) -> None:
    function = {"name": "turn_on", "arguments": '{"device": "lamp"}'}
    call = {"id": "call00001", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "Turn on the lamp."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": "The lamp is on."},
    ]
    need(site.say(messages=messages, tools=TOOLS, tool_choice="none").choices[0].message.content)


def tool_stream(site: Site) -> None:
    options: Any = {"tools": TOOLS, "tool_choice": "required", "stream": True, "max_tokens": 64}
    chunks = list(site.say("Turn on the lamp.", **options))
    parts = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    first = [part for part in parts if part.index == 0]
    need(json.loads("".join(part.function.arguments or "" for part in first))["device"])


def token_logprobs(site: Site) -> None:
    (token, *_) = site.say(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    need(len(token.top_logprobs) == 2)


def label_logprobs(site: Site) -> None:
    messages: Any = [{"role": "user", "content": "Smoke comes out of the press"}]
    answer: Any = site.openai().chat.completions.create(
        model=site.labels, messages=messages, logprobs=True, top_logprobs=3
    )
    (token,) = answer.choices[0].logprobs.content
    need({one.token for one in token.top_logprobs} == {"normal", "warning", "critical"})


def embeddings(site: Site) -> None:
    client = site.openai(embeds=True)
    found = client.embeddings.create(model=site.embed, input=["The lamp is on.", "A fan"]).data
    need(len(found) == 2 and len(found[0].embedding) > 64)


def rerank(site: Site) -> None:
    model = site.reader or site.embed
    body = {"model": model, "query": "lamp", "documents": ["The lamp is on.", "A cat"], "top_n": 1}
    url = f"{site.embed_url or site.url}/v1/rerank"
    answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {site.token}"}, timeout=60)
    (best,) = answer.raise_for_status().json()["results"]
    need(best["index"] in (0, 1) and 0 <= best["relevance_score"] <= 1)


def responses(site: Site) -> None:
    answer = site.openai().responses.create(model=site.chat, input="Say hello.", max_output_tokens=24)
    need(answer.output_text)


def responses_stream(site: Site) -> None:
    with site.openai().responses.stream(model=site.chat, input="Say hello.", max_output_tokens=24) as told:
        kinds = [event.type for event in told]
    need("response.output_text.delta" in kinds)


def responses_tools(site: Site) -> None:
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    answer = site.openai().responses.create(
        model=site.chat, input="Turn on the lamp.", tools=tools, tool_choice="required", max_output_tokens=64
    )
    (call,) = [item for item in answer.output if item.type == "function_call"][:1]
    need(json.loads(call.arguments)["device"])


def responses_schema(site: Site) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
    answer = site.openai().responses.create(
        model=site.chat, input="Name a city of Italy.", text=form, max_output_tokens=48
    )
    need(set(json.loads(answer.output_text)) == {"city"})


def _refused(ask: Callable[[], Any], kind: type[openai.APIStatusError]) -> Any:
    try:
        ask()
    except openai.APIStatusError as error:
        need(isinstance(error, kind), f"the status is {error.status_code}")
        need(isinstance(error.body, dict) and error.body.get("message") and "type" in error.body)
        return error
    raise Unsupported("it is answered")


def bad_request(site: Site) -> None:
    _refused(lambda: site.say(messages=[{"role": "nobody", "content": "x"}]), openai.BadRequestError)


def bad_tool(site: Site) -> None:
    tool = {"type": "function", "function": {"name": "a", "parameters": {"type": "never"}}}
    _refused(lambda: site.say(tools=[tool], tool_choice="required"), openai.BadRequestError)


def too_long(site: Site) -> None:
    error = _refused(lambda: site.say("word " * 60_000), openai.BadRequestError)
    need("context" in f"{error.code} {error}".lower())


def unknown_model(site: Site) -> None:
    _refused(lambda: site.say(model="no-such-model"), openai.NotFoundError)


def wrong_token(site: Site) -> None:
    client = replace(site, token="wrong-token-0123456789").openai()
    messages: Any = [{"role": "user", "content": "Hi"}]
    _refused(
        lambda: client.chat.completions.create(model=site.chat, messages=messages),
        openai.AuthenticationError,
    )


def repeat(site: Site) -> None:
    """A repeat with the same key gets the stored answer, which sampling wouldn't give again."""
    headers = {"Idempotency-Key": "dialects-1"}
    told = [
        site.say("Write a story.", extra_headers=headers, temperature=1.8).choices[0].message.content
        for _ in range(3)
    ]
    need(len(set(told)) == 1)


def ollama_lists(site: Site) -> None:
    client = site.ollama()
    need(client.list().models and client.show(site.chat).modelinfo is not None)


def ollama_chat(site: Site) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    need(site.ollama().chat(site.chat, messages, options={"num_predict": 16}).message.content)


def ollama_stream(site: Site) -> None:
    options = {"num_predict": 16}
    parts = list(site.ollama().generate(site.chat, "Count to five.", stream=True, options=options))
    need(len(parts) > 2 and parts[-1].done)


def ollama_format(site: Site) -> None:
    messages = [{"role": "user", "content": "Name a city of Italy."}]
    answer = site.ollama().chat(site.chat, messages, format=SCHEMA, options={"num_predict": 48})
    need(set(json.loads(answer.message.content or "")) == {"city"})


def ollama_tools(site: Site) -> str:
    messages = [{"role": "user", "content": "Turn on the lamp."}]
    answer = site.ollama().chat(site.chat, messages, tools=TOOLS, options={"num_predict": 64})
    return "" if answer.message.tool_calls else "yes; this model answered in words"


def ollama_embed(site: Site) -> None:
    need(len(site.ollama().embed(site.embed, ["lamp", "fan"]).embeddings) == 2)


FEATURES: Final[Mapping[str, Callable[[Site], str | None]]] = {
    "models": models,
    "chat": chat,
    "role developer": developer,
    "stream, with usage": stream,
    "max_tokens": max_tokens,
    "stop": stop,
    "seed": seed,
    "n": several_choices,
    "response_format json_schema": json_schema,
    "response_format json_object": json_object,
    "tools": tools,
    "tool_choice required": tool_required,
    "tool_choice by name": tool_named,
    "tool_choice none": tool_none,
    "several calls in an answer": several_calls,
    "parallel_tool_calls false": one_call,
    "results of tools": tool_results,
    "calls in a stream": tool_stream,
    "logprobs of tokens": token_logprobs,
    "logprobs of labels": label_logprobs,
    "embeddings": embeddings,
    "rerank": rerank,
    "responses": responses,
    "responses, stream": responses_stream,
    "responses, tools": responses_tools,
    "responses, json_schema": responses_schema,
    "error 400: a wrong role": bad_request,
    "error 400: a wrong schema of a tool": bad_tool,
    "error 400: too long": too_long,
    "error 401: a wrong token": wrong_token,
    "error 404: an unknown model": unknown_model,
    "Idempotency-Key": repeat,
    "Ollama: list, show": ollama_lists,
    "Ollama: chat": ollama_chat,
    "Ollama: generate, stream": ollama_stream,
    "Ollama: format": ollama_format,
    "Ollama: tools": ollama_tools,
    "Ollama: embed": ollama_embed,
}
