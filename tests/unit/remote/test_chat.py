"""Chat completions as a client writes and reads them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.remote.chat import Chat, RemoteError, Reply, encode, read_reply, refused_field
from tests.support.chat_servers import completion

MESSAGES = ({"role": "user", "content": "hello"},)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_a_request_has_what_the_chat_has() -> None:
    body = encode(Chat(MESSAGES, 9, {"type": "object"}, sampling={"temperature": 0.0}), "big")
    assert body == {
        "model": "big",
        "messages": list(MESSAGES),
        "max_tokens": 9,
        "temperature": 0.0,
        "logprobs": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}},
        },
    }


def test_a_refused_field_is_left_out_or_renamed() -> None:
    chat = Chat(MESSAGES, 9, sampling={"temperature": 0.0})
    body = encode(chat, "big")
    assert refused_field(b"Unsupported value: 'temperature' does not support 0.0", body) == "temperature"
    unsupported = b"'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    assert refused_field(unsupported, body) == "max_tokens"
    assert refused_field(b"no such model", body) is None
    assert refused_field(b"max_tokens is too large: 5000", body) is None
    assert encode(chat, "big", frozenset({"temperature", "max_tokens"})) == {
        "model": "big",
        "messages": list(MESSAGES),
        "max_completion_tokens": 9,
    }


def test_an_answer_is_read() -> None:
    tokens = [{"token": "a", "logprob": math.log(0.5)}, {"token": "b", "logprob": math.log(0.5)}]
    call = {"name": "f", "arguments": {"x": 1}}
    reply = read_reply(completion(None, [call], finish_reason="tool_calls", logprobs={"content": tokens}))
    assert (reply.text, list(reply.calls), reply.finish_reason) == ("", [("f", {"x": 1})], "tool_calls")
    assert reply.probability_of("ab") == pytest.approx(0.25)
    assert reply.probability_of("c") is None
    assert reply.usage == {"prompt_tokens": 7, "completion_tokens": 2}


@pytest.mark.parametrize("value", [-(10**18), 3.0, "a", None, True])
def test_log_probabilities_that_are_none_are_ignored(value: Any) -> None:
    tokens = [{"token": "a", "logprob": value}]
    assert read_reply(completion("x", logprobs={"content": tokens})).tokens == ()


@pytest.mark.parametrize(
    "answer",
    [
        completion("x", logprobs={"content": [{"logprob": -(10**400)}]}),
        completion("", [{"name": "f", "arguments": json.loads('{"a": ' * 30 + "1" + "}" * 30)}]),
        b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1' + b"0" * 400 + b"}}",
        b"[" * 100_000,
        completion("x", logprobs={"content": [{"logprob": math.nan}]}),
    ],
)
def test_numbers_and_depths_beyond_limits_are_refused(answer: bytes) -> None:
    try:
        reply = read_reply(answer)
    except RemoteError:
        return
    assert len(reply.calls) == 1


def test_counts_beyond_belief_are_left_out() -> None:
    answer = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 10000000000}}'
    assert read_reply(answer).usage == {}


@given(JSON)
def test_what_is_no_completion_is_refused(value: Any) -> None:
    wrapped = [value, {"choices": value}, {"choices": [value]}, {"choices": [{"message": value}]}]
    for body in wrapped:
        try:
            reply = read_reply(json.dumps(body).encode())
        except RemoteError:
            continue
        assert isinstance(reply.text, str)


@given(st.binary(max_size=40))
def test_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteError):
        read_reply(body)


def test_the_form_of_json_doesnt_count_for_the_probability_of_a_value() -> None:
    tokens = [
        ("{", -9.0),
        ('"label', -7.0),
        ('":"', 0.0),
        ("cri", math.log(0.5)),
        ("tical", math.log(0.8)),
        ('"}', -3.0),
    ]
    assert Reply('{"label":"critical"}', tokens=tokens).probability_of("critical") == pytest.approx(0.4)
