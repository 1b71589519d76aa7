"""Requests of tasks to a model on another server, and checks of its answers."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.messages import Request
from edgeslm.remote.chat import Chat, Reply, encode, parse_object
from edgeslm.remote.redaction import Redaction
from edgeslm.tasks import make_task
from edgeslm.tasks.consulting import chat_messages

PASSAGES = [
    {
        "id": "a#1",
        "source": "a.md",
        "heading": "Oil",
        "text": "Change the oil every 500 hours. Use ISO VG 46.",
        "score": 0.5,
        "start": 10,
        "end": 56,
    },
    {
        "id": "b#1",
        "source": "b.md",
        "heading": "",
        "text": "The pump runs at 3 bar.",
        "score": 0.4,
        "start": 0,
        "end": 23,
    },
]
LABELS = {"kind": "classify", "labels": {"normal": "all is well", "critical": "stop now"}}
FIELDS = {
    "kind": "extract",
    "schema": {
        "type": "object",
        "properties": {"machine": {"type": "string"}, "bar": {"type": "number"}},
        "required": ["machine"],
    },
}
QUOTE = {"kind": "answer", "knowledge": ["manuals"]}
COMPOSE = {**QUOTE, "mode": "compose"}
TOOL = {
    "name": "switch",
    "description": "Switches a lamp",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}


def consulted(
    section: dict[str, Any],
    reply: Reply | str,
    text: Any = "press 4 smells",
    found: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Any, list[Chat]]:
    """The result, and the chats that were sent."""
    sent: list[Chat] = []

    async def ask(chat: Chat) -> Reply:
        sent.append(chat)
        return Reply(reply) if isinstance(reply, str) else reply

    task = make_task("t", TaskSection.model_validate_json(json.dumps(section)))
    request = Request("t", text, "7", "r", options=options)
    return asyncio.run(task.consult(request, found or {}, ask)), sent


def test_a_label_is_asked_for_as_json_with_its_meaning() -> None:
    result, (chat,) = consulted(LABELS, '{"label": "critical"}')
    assert result == {"label": "critical"}
    assert chat.schema is not None and chat.schema["properties"]["label"]["enum"] == ["normal", "critical"]
    assert "- critical: stop now" in chat.messages[0]["content"]
    assert chat.messages[-1]["content"] == "press 4 smells"


def test_one_form_is_asked_for_and_shown() -> None:
    _, (chat,) = consulted({**LABELS, "examples": [{"input": "ok", "output": "normal"}]}, "normal")
    whole = "\n".join(message["content"] for message in chat.messages)
    assert whole.count("Answer") == 1 and 'one label as JSON, and nothing else: {"label": "..."}' in whole
    assert chat.messages[2] == {"role": "assistant", "content": '{"label": "normal"}'}


@pytest.mark.parametrize("text", ["critical", "critical.", '```json\n{"label": "critical"}\n```'])
def test_a_label_in_another_form_is_taken(text: str) -> None:
    assert consulted(LABELS, text)[0] == {"label": "critical"}


@pytest.mark.parametrize("text", ["", "both", '{"label": "other"}', '{"label": 3}', "{}", "[1]", "{" * 2000])
def test_what_is_no_label_is_unusable(text: str) -> None:
    assert consulted(LABELS, text)[0] is None


def test_the_confidence_of_a_label_is_its_probability() -> None:
    reply = Reply(
        '{"label": "normal"}', tokens=[('{"label": "', -5.0), ("normal", math.log(0.75)), ('"}', -1.0)]
    )
    assert consulted(LABELS, reply)[0] == {"label": "normal", "confidence": pytest.approx(0.75)}


def test_the_labels_of_a_request_are_asked_for() -> None:
    result, (chat,) = consulted({**LABELS, "allow": ["labels"]}, "b", labels={"a": "", "b": "the second"})
    assert result == {"label": "b"}
    assert "- b: the second" in chat.messages[0]["content"]


def test_fields_have_spans() -> None:
    result, (chat,) = consulted(FIELDS, '{"machine": "press 4"}')
    assert result == {"fields": {"machine": "press 4"}, "spans": {"machine": {"start": 0, "end": 7}}}
    assert chat.schema == FIELDS["schema"]


@pytest.mark.parametrize("text", ["", "no", '{"bar": 3}', '{"machine": 3}', "[]"])
def test_fields_that_break_the_schema_are_unusable(text: str) -> None:
    assert consulted(FIELDS, text)[0] is None


def test_fields_that_the_message_doesnt_have_are_unusable_if_verbatim() -> None:
    assert consulted({**FIELDS, "verbatim": True}, '{"machine": "press 5"}')[0] is None
    assert consulted({**FIELDS, "verbatim": True}, '{"machine": "press 4"}')[0] is not None


def test_a_quote_cites_the_document() -> None:
    result, (chat,) = consulted(QUOTE, "Use ISO VG 46. [1]", "Which oil?", {"passages": PASSAGES})
    assert result == {
        "text": "Use ISO VG 46.",
        "citations": [
            {
                "source": "a.md",
                "quote": "Use ISO VG 46.",
                "start": 42,
                "end": 56,
                "id": "a#1",
                "heading": "Oil",
            }
        ],
    }
    shown = chat.messages[1]["content"]
    assert shown.startswith("[1] Oil\nChange the oil") and shown.endswith("Question: Which oil?")
    assert "a.md" not in str(chat)


def test_copied_words_stand_for_their_sentence() -> None:
    for text in ("ISO VG 46", "Use ISO VG 46. The pump runs", "ISO VG 46.\nISO VG"):
        result, _ = consulted(QUOTE, text, "Which oil?", {"passages": PASSAGES})
        assert result["text"].startswith("Use ISO VG 46.")
        assert all(one["quote"].endswith(".") for one in result["citations"])


@pytest.mark.parametrize("text", ["NONE", "None.", "", "Use ISO VG 68.", "I don't know"])
def test_what_no_passage_has_is_unusable(text: str) -> None:
    for section in (QUOTE, COMPOSE):
        assert consulted(section, text, "Which oil?", {"passages": PASSAGES})[0] is None


def test_sentences_that_no_passage_supports_are_dropped() -> None:
    written = "Change the oil every 500 hours, please. The pump is blue and costs 99 dollars."
    result, _ = consulted(COMPOSE, written, "How often is the oil changed?", {"passages": PASSAGES})
    assert result["text"] == "Change the oil every 500 hours, please."
    assert [one["source"] for one in result["citations"]] == ["a.md"]


def test_a_question_without_passages_isnt_sent() -> None:
    result, sent = consulted(QUOTE, "anything", "Which oil?")
    assert result is None and not sent


def test_a_chat_with_calls_has_ids() -> None:
    messages = [
        {"role": "user", "content": "lamp on"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "switch", "arguments": {"on": True}}] * 2,
        },
        {"role": "tool", "content": "done"},
        {"role": "tool", "content": "done too"},
    ]
    result, (chat,) = consulted(
        {"kind": "generate", "instruction": "Be short.", "model": "m"},
        Reply("Done.", finish_reason="length"),
        {"messages": messages},
        tools=[TOOL],
        tool_choice="switch",
    )
    assert result == {"text": "Done.", "finish_reason": "length"}
    sent = list(chat.messages)
    assert sent[0] == {"role": "system", "content": "Be short."}
    assert [call["id"] for call in sent[2]["tool_calls"]] == ["call_0", "call_1"]
    assert [one["tool_call_id"] for one in sent[3:]] == ["call_0", "call_1"]
    assert chat.tools == [{"type": "function", "function": TOOL}]
    assert chat.tool_choice == {"type": "function", "function": {"name": "switch"}}


@pytest.mark.parametrize(
    ("calls", "is_usable"),
    [
        ([("switch", {"on": True})], True),
        ([("switch", {"on": True}), ("switch", {"on": False})], True),
        ([("switch", {"on": "yes"})], False),
        ([("explode", {})], False),
    ],
)
def test_calls_are_held_to_their_tools(calls: list[tuple[str, dict[str, Any]]], is_usable: bool) -> None:
    section = {"kind": "generate", "model": "m"}
    result, _ = consulted(section, Reply("", calls), "lamp on", tools=[TOOL])
    assert (result is not None) == is_usable
    if result:
        assert result["finish_reason"] == "tool_calls"
        assert result["tool_calls"] == [{"name": name, "arguments": found} for name, found in calls]


def test_an_answer_that_breaks_the_schema_is_unusable() -> None:
    section = {"kind": "generate", "model": "m"}
    schema = FIELDS["schema"]
    assert consulted(section, '{"machine": 3}', "x", schema=schema)[0] is None
    assert consulted(section, '{"machine": "a"}', "x", schema=schema)[0] is not None
    assert consulted(section, "", "x")[0] is None


def test_an_object_is_found_in_a_code_block() -> None:
    assert parse_object('```\n{"a": 1}\n```') == {"a": 1}
    assert parse_object("3") is None


def test_arguments_of_earlier_calls_are_redacted_before_they_become_text() -> None:
    call = {"name": "dial", "arguments": {"text": "Call\n+49 171 2345678"}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    chat = Chat(chat_messages({"messages": messages}, None), 9)
    sent = encode(Chat(Redaction(["phone"], []).hide(chat.messages), 9), "m")
    (made,) = sent["messages"][0]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"text": "Call\n[PHONE_1]"}
