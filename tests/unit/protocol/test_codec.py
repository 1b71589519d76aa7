"""Bytes to requests and results to bytes, as an app or a sensor sees it."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import REQUEST_ERRORS, Busy, InvalidRequest, ProtocolError
from edgeslm.messages import Chunk, ErrorBody, Request, Result, Truncated
from edgeslm.protocol.codec import (
    MAX_CORRELATION_BYTES,
    MAX_ID_CHARACTERS,
    MAX_REPLY_TOPIC_BYTES,
    Cancel,
    Rejected,
    State,
    Topics,
    encode_cancel,
    encode_chunk,
    encode_dead,
    encode_document,
    encode_request,
    encode_result,
    encode_state,
    error_result,
    parse_cancel,
    parse_chunk,
    parse_request,
    parse_result,
    parse_state,
)
from edgeslm.protocol.delivery import Delivery

TOPICS = Topics("hall")
REPLIES = ("edgeslm/v1/+/res/#", "edgeslm/v1/pool/+/res/#")
LIMIT = 1_048_576


def parse(payload: bytes | dict[str, Any], **changes: Any) -> Request | Rejected:
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode()
    values: dict[str, Any] = {
        "task": "triage",
        "topics": TOPICS,
        "allowed_replies": REPLIES,
        "packet_limit": LIMIT,
    }
    values |= {name: changes.pop(name) for name in values if name in changes}
    delivery = replace(Delivery.local(payload), **{"received_at": 100.0, **changes})
    return parse_request(delivery, **values)


def accepted(payload: bytes | dict[str, Any], **changes: Any) -> Request:
    request = parse(payload, **changes)
    assert isinstance(request, Request), request
    return request


def rejected(payload: bytes | dict[str, Any], **changes: Any) -> Rejected:
    request = parse(payload, **changes)
    assert isinstance(request, Rejected), request
    return request


class TestInput:
    @pytest.mark.parametrize(
        "text", ["smells of oil", "  with spaces\n", "[1, 2]", '"quoted"', "42", "Grüße 🙂", "\ufeff{"]
    )
    def test_text_that_is_no_object_is_the_input_verbatim(self, text: str) -> None:
        request = accepted(text.encode())
        assert request.input == text
        assert not request.named
        assert request.id
        assert request.reply_to == "edgeslm/v1/hall/res/triage"

    def test_requests_without_an_id_get_different_ones(self) -> None:
        assert accepted(b"a").id != accepted(b"a").id

    @pytest.mark.parametrize("payload", [b'{"input": "a"}', b' \r\n\t{"input": "a"}\n'])
    def test_an_object_is_a_request(self, payload: bytes) -> None:
        assert accepted(payload).input == "a"

    def test_an_object_as_input_is_kept(self) -> None:
        messages = {"messages": [{"role": "user", "content": "hi"}]}
        assert accepted({"input": messages}).input == messages

    @pytest.mark.parametrize("payload", [b"", b" \n", b'{"input": ""}', b'{"input": " "}', b'{"input": {}}'])
    def test_an_empty_input_is_refused(self, payload: bytes) -> None:
        assert "empty" in str(rejected(payload).error)

    @pytest.mark.parametrize("value", [None, 1, 1.5, True, ["a"]])
    def test_an_input_of_another_type_is_refused(self, value: Any) -> None:
        assert '"input" must be' in str(rejected({"input": value}).error)

    @pytest.mark.parametrize(
        ("payload", "says"),
        [
            (b"{", "Expecting property name"),
            (b"{it's not JSON}", "can't be read as a JSON object"),
            (b'{"input": "a"} {', "Extra data"),
            (b'{"input": "a", "input": "b"}', "appears twice"),
            (b'{"input": "a", "x": NaN}', "NaN"),
            (b'{"input": "a", "x": -Infinity}', "-Infinity"),
            (b'{"input": "a", "x": 1e999}', "too large"),
            (b'{"input": "a", "x": ' + b"9" * 5000 + b"}", "too large"),
            (b'{"input": ' * 40 + b'"a"' + b"}" * 40, "32 levels"),
            (b'{"input": ' + b"[" * 100_000, "32 levels"),
            (b'{"input": {"a": [' + b"[]," * 20_000 + b"[]]}}", "10000 objects and lists"),
            (b'{"text": "a"}', "no field 'text'"),
            (b'{"id": "1"}', '"input" is missing'),
        ],
    )
    def test_a_bad_object_is_refused_with_what_to_change(self, payload: bytes, says: str) -> None:
        refusal = rejected(payload)
        assert isinstance(refusal.error, InvalidRequest)
        assert says in str(refusal.error)

    def test_bytes_that_are_no_utf8_are_refused(self) -> None:
        refusal = rejected(b"caf\xe9")
        assert isinstance(refusal.error, InvalidRequest)
        assert "UTF-8" in str(refusal.error)

    def test_ten_megabytes_are_too_large_and_not_read(self) -> None:
        refusal = rejected(b'{"input": "' + b"x" * 10_000_000, response_topic="edgeslm/v1/hall/res/app")
        assert refusal.error.code == "too_large"
        assert "10000011 bytes" in str(refusal.error)
        assert refusal.reply_to == "edgeslm/v1/hall/res/app"

    def test_a_payload_dropped_for_its_size_is_too_large(self) -> None:
        assert rejected(b"", size=LIMIT + 1).error.code == "too_large"

    def test_half_a_surrogate_pair_becomes_a_replacement_character(self) -> None:
        request = accepted(b'{"input": "cut \\ud83d", "options": {"stop": ["\\udc00"]}}')
        assert request.input == "cut \ufffd"
        assert request.options["stop"] == ["\ufffd"]

    def test_a_whole_surrogate_pair_stays(self) -> None:
        assert accepted(b'{"input": "\\ud83d\\ude42"}').input == "🙂"


class TestWhereTheAnswerGoes:
    def test_json_names_it_for_mqtt_3(self) -> None:
        request = accepted({"input": "a", "id": "42", "reply_to": "edgeslm/v1/app-7/res/mine"})
        assert (request.id, request.named, request.reply_to) == ("42", True, "edgeslm/v1/app-7/res/mine")

    def test_properties_win_over_json(self) -> None:
        request = accepted(
            {"input": "a", "id": "42", "reply_to": "edgeslm/v1/a/res/json"},
            response_topic="edgeslm/v1/a/res/property",
            correlation=b"\x00\xff",
        )
        assert request.reply_to == "edgeslm/v1/a/res/property"
        assert request.correlation == b"\x00\xff"
        assert request.id == "42"

    def test_a_forbidden_reply_to_is_no_matter_beside_a_response_topic(self) -> None:
        payload = {"input": "a", "reply_to": "somewhere/else"}
        assert accepted(payload, response_topic="edgeslm/v1/a/res/b").reply_to == "edgeslm/v1/a/res/b"

    @pytest.mark.parametrize(
        ("correlation", "id_"),
        [(b"req-9", "req-9"), (b"\x01\x02", "0102"), (b"\xff", "ff"), ("é".encode(), "é")],
    )
    def test_correlation_data_makes_the_id(self, correlation: bytes, id_: str) -> None:
        request = accepted(b"a", correlation=correlation)
        assert (request.id, request.named) == (id_, True)

    def test_correlation_data_of_more_than_256_bytes_is_refused_and_not_repeated(self) -> None:
        assert accepted(b"a", correlation=b"x" * MAX_CORRELATION_BYTES).correlation is not None
        refused = parse(b"a", correlation=b"x" * 60_000, response_topic="edgeslm/v1/a/res/b")
        assert isinstance(refused, Rejected)
        assert refused.error.code == "invalid_request"
        assert (refused.correlation, refused.reply_to) == (None, "edgeslm/v1/a/res/b")
        assert len(refused.id) <= MAX_ID_CHARACTERS

    @pytest.mark.parametrize("by", ["property", "field"])
    def test_a_reply_topic_of_more_than_1024_bytes_is_refused_and_answered_elsewhere(self, by: str) -> None:
        def ask(size: int) -> Request | Rejected:
            topic = "edgeslm/v1/a/res/".ljust(size - 2, "x") + "\u00e9"
            if by == "property":
                return parse(b"a", response_topic=topic)
            return parse(encode_request("a", reply_to=topic))

        assert isinstance(ask(MAX_REPLY_TOPIC_BYTES), Request)
        refused = ask(MAX_REPLY_TOPIC_BYTES + 1)
        assert isinstance(refused, Rejected)
        assert refused.error.code == "invalid_request"
        assert refused.reply_to == TOPICS.result("triage")

    @pytest.mark.parametrize("id_", ["1\n2026", "\x1b[2J", "a\u202eb", "\x9b"])
    def test_an_id_that_can_not_be_printed_is_refused(self, id_: str) -> None:
        refused = parse(encode_request("a", id=id_))
        assert isinstance(refused, Rejected)
        assert refused.error.code == "invalid_request"
        assert refused.id.isprintable()

    @pytest.mark.parametrize(
        "topic",
        [
            "",
            "edgeslm/v1/+/res/a",
            "edgeslm/v1/a/res/#",
            "edgeslm/v1/a/res/\x00",
            "edgeslm/v1/a/res/\x07",
            "edgeslm/v1/a/res/\ufffe",
            "edgeslm/v1/a/res/" + "x" * 65_530,
            "edgeslm/v1/a/res" + "/x" * 300,
            "$SYS/a",
            "somewhere/else",
            "edgeslm/v1/a/req/triage",
            "edgeslm/v1/a/cancel",
            "edgeslm/v1/a/ctl/drain",
            "edgeslm/v1/pool/res/req/triage",
        ],
    )
    @pytest.mark.parametrize("way", ["property", "json"])
    def test_a_reply_topic_that_cannot_be_used_is_answered_on_the_default_one(
        self, topic: str, way: str
    ) -> None:
        if way == "property":
            refusal = rejected(b'{"input": "a"}', response_topic=topic, correlation=b"c")
        else:
            refusal = rejected({"input": "a", "reply_to": topic, "id": "c"})
        assert isinstance(refusal.error, InvalidRequest)
        assert "reply topic" in str(refusal.error)
        assert refusal.reply_to == "edgeslm/v1/hall/res/triage"
        assert refusal.id == "c"

    def test_half_a_surrogate_pair_in_a_response_topic_is_refused(self) -> None:
        assert "UTF-8" in str(rejected(b"a", response_topic="edgeslm/v1/a/res/\ud800").error)

    def test_control_topics_are_refused_even_if_replies_allows_everything(self) -> None:
        for topic in ("edgeslm/v1/b/req/x", "edgeslm/v1/b/state", "edgeslm/v1/pool/p/req/x"):
            assert isinstance(parse(b"a", response_topic=topic, allowed_replies=("#",)), Rejected)
        for topic in ("factory/answers", "edgeslm/v1/b/res", "edgeslm/v1/pool/p/res/x"):
            assert isinstance(parse(b"a", response_topic=topic, allowed_replies=("#",)), Request)

    def test_another_prefix_has_its_own_control_topics(self) -> None:
        topics = Topics("hall", "site/edge")
        allowed = {"topics": topics, "allowed_replies": ("#",)}
        assert isinstance(parse(b"a", response_topic="site/edge/v1/b/req/x", **allowed), Rejected)
        assert isinstance(parse(b"a", response_topic="site/edge/v1/b/res/x", **allowed), Request)

    @pytest.mark.parametrize("id_", [None, "", "x" * 257, True, [], {}])
    def test_a_bad_id_is_refused(self, id_: Any) -> None:
        assert '"id" must be a string' in str(rejected({"input": "a", "id": id_}).error)

    def test_a_number_as_id_is_refused_and_named(self) -> None:
        assert rejected({"input": "a", "id": 42}).id == "42"

    @pytest.mark.parametrize("reply_to", [None, 5, ["a"]])
    def test_a_reply_topic_of_another_type_is_refused(self, reply_to: Any) -> None:
        assert '"reply_to" must be a string' in str(rejected({"input": "a", "reply_to": reply_to}).error)

    def test_a_good_id_is_kept_when_something_else_is_wrong(self) -> None:
        refusal = rejected({"input": "a", "id": "7", "reply_to": "edgeslm/v1/x/res/y", "options": 5})
        assert (refusal.id, refusal.reply_to) == ("7", "edgeslm/v1/x/res/y")


class TestTime:
    def test_without_expiry_there_is_none(self) -> None:
        assert accepted(b"a").expires_at is None

    def test_message_expiry_counts_from_now(self) -> None:
        assert accepted(b"a", expiry_s=5).expires_at == 105.0
        assert accepted(b"a", expiry_s=0).expires_at == 100.0

    def test_the_nearer_of_expiry_and_deadline_counts(self) -> None:
        payload = {"input": "a", "options": {"deadline_ms": 1500}}
        assert accepted(payload).expires_at == 101.5
        assert accepted(payload, expiry_s=1).expires_at == 101.0
        assert accepted(payload, expiry_s=60).expires_at == 101.5

    def test_priority_is_read_from_the_options(self) -> None:
        assert accepted({"input": "a", "options": {"priority": 9}}).priority == 9
        assert accepted(b"a").priority == Request("t", "a", "1", "r").priority


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
field_names = st.sampled_from(["input", "id", "reply_to", "options", "max_tokens", "x"])


class TestAnything:
    @given(st.binary(max_size=200), st.none() | st.text(st.characters(codec=None)), st.none() | st.binary())
    def test_any_bytes_are_a_request_or_a_rejection(
        self, payload: bytes, response_topic: str | None, correlation: bytes | None
    ) -> None:
        for data in (payload, b"{" + payload):
            request = parse(data, response_topic=response_topic, correlation=correlation)
            self.check_answerable(request)

    @given(st.dictionaries(field_names, json_values, max_size=4))
    def test_any_object_is_a_request_or_a_rejection(self, fields: dict[str, Any]) -> None:
        self.check_answerable(parse(json.dumps(fields).encode()))

    @given(st.binary(max_size=100))
    def test_other_parsers_raise_their_own_errors_only(self, payload: bytes) -> None:
        for data in (payload, b'{"id": "1", "task": "t", ' + payload):
            for parser in (parse_result, parse_chunk, parse_state):
                with contextlib.suppress(ProtocolError):
                    parser(data)
            with contextlib.suppress(InvalidRequest):
                parse_cancel(data)

    @given(st.dictionaries(st.sampled_from(["id", "task", "status", "result", "error", "seq"]), json_values))
    def test_any_object_is_a_result_or_a_protocol_error(self, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode()
        for parser in (parse_result, parse_chunk, parse_state):
            with contextlib.suppress(ProtocolError):
                parser(data)

    @staticmethod
    def check_answerable(request: Request | Rejected) -> None:
        assert request.reply_to.startswith("edgeslm/v1/")
        if isinstance(request, Rejected):
            assert type(request.error) in REQUEST_ERRORS.values()
            answer = parse_result(encode_result(error_result(request.id, request.task, request.error)))
            assert answer.error is not None
            assert answer.error.message
        else:
            assert answerable_text(request.id)


def answerable_text(text: str) -> bool:
    return bool(text) and parse_chunk(encode_chunk(Chunk(text, 0, ""))).id == text


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
results = st.builds(
    Result,
    id=names,
    task=names,
    status=st.sampled_from(["ok", "abstained"]),
    result=st.dictionaries(
        names, st.text(st.characters(codec="utf-8")) | st.integers(-(2**63), 2**63), max_size=3
    ),
    model=st.none() | names,
    timings_ms=st.dictionaries(names, floats, max_size=3),
    usage=st.dictionaries(names, st.integers(0, 2**40), max_size=3),
    truncated=st.none() | st.builds(Truncated, st.integers(0, 9999), st.integers(0, 9999)),
    topic=st.none() | names,
)


class TestResults:
    @given(results)
    def test_a_result_survives_the_round_trip(self, result: Result) -> None:
        once = parse_result(encode_result(result))
        assert parse_result(encode_result(once)) == once
        assert (once.id, once.task, once.status, once.result) == (
            result.id,
            result.task,
            result.status,
            result.result,
        )
        assert (once.model, dict(once.usage), once.truncated) == (
            result.model,
            result.usage,
            result.truncated,
        )

    @given(
        names,
        names,
        st.sampled_from(list(REQUEST_ERRORS.values())),
        st.text(),
        st.none() | st.integers(0, 9999),
    )
    def test_an_error_survives_the_round_trip(
        self, id_: str, task: str, kind: Any, text: str, retry: int | None
    ) -> None:
        result = error_result(id_, task, kind(text, retry_after_ms=retry))
        assert parse_result(encode_result(result)) == result

    def test_the_contract_s_example(self) -> None:
        result = Result(
            "42",
            "triage",
            "ok",
            {
                "label": "critical",
                "confidence": 0.97,
                "scores": {"normal": 0.01, "warning": 0.02, "critical": 0.97},
            },
            model="small@sha256:1f3a",
            timings_ms={"queue": 1.2, "prefill": 20.1, "decode": 0.0, "total": 22.4},
            usage={"prompt_tokens": 61, "completion_tokens": 0},
        )
        assert encode_result(result).decode() == (
            '{"id": "42", "task": "triage", "status": "ok", '
            '"result": {"label": "critical", "confidence": 0.97, '
            '"scores": {"normal": 0.01, "warning": 0.02, "critical": 0.97}}, "model": "small@sha256:1f3a", '
            '"timings_ms": {"queue": 1.2, "prefill": 20.1, "decode": 0.0, "total": 22.4}, '
            '"usage": {"prompt_tokens": 61, "completion_tokens": 0}}'
        )

    def test_probabilities_and_times_are_rounded_and_extracted_values_are_not(self) -> None:
        result = Result(
            "1",
            "t",
            "ok",
            {
                "confidence": 0.123456789,
                "scores": {"a": 1 / 3},
                "vector": (0.11111111, -2 / 3),
                "passages": [{"score": 2 / 3}],
                "fields": {"ratio": 0.123456789},
            },
            timings_ms={"total": 1.26},
        )
        read = json.loads(encode_result(result))
        assert read["result"] == {
            "confidence": 0.123457,
            "scores": {"a": 0.333333},
            "vector": [0.111111, -0.666667],
            "passages": [{"score": 0.666667}],
            "fields": {"ratio": 0.123456789},
        }
        assert read["timings_ms"] == {"total": 1.3}

    def test_numbers_that_json_lacks_become_null(self) -> None:
        result = Result(
            "1",
            "t",
            "ok",
            {"confidence": math.nan, "vector": [math.inf], "fields": {"a": [-math.inf, {"b": math.nan}]}},
            timings_ms={"total": math.nan},
        )
        read = json.loads(encode_result(result))
        assert read["result"] == {"confidence": None, "vector": [None], "fields": {"a": [None, {"b": None}]}}
        assert read["timings_ms"] == {"total": None}

    def test_half_a_surrogate_pair_does_not_stop_a_result(self) -> None:
        result = Result("1", "t", "ok", {"text": "cut \ud83d", "fields": {"\udc00": "é"}})
        assert json.loads(encode_result(result))["result"] == {
            "text": "cut \ufffd",
            "fields": {"\ufffd": "é"},
        }

    def test_text_is_sent_as_it_is(self) -> None:
        assert "Grüße 🙂".encode() in encode_result(Result("1", "t", "ok", {"text": "Grüße 🙂"}))

    def test_busy_says_when_to_come_back(self) -> None:
        read = json.loads(encode_result(error_result("1", "t", Busy("full", retry_after_ms=250))))
        assert read["error"] == {"code": "busy", "message": "full", "retry_after_ms": 250}
        assert "result" not in read

    def test_unknown_fields_of_a_later_version_are_ignored(self) -> None:
        payload = (
            b'{"id": "1", "task": "t", "status": "ok", "result": {}, "later": true, "usage": {"x": "?"}}'
        )
        assert parse_result(payload) == Result("1", "t", "ok", {})

    def test_a_count_beyond_64_bits_is_ignored_like_one_that_is_no_number(self) -> None:
        payload = (
            b'{"id": "1", "task": "t", "status": "ok", "result": {}, "usage": {"x": 1e308, "y": 7.0},'
            b' "truncated": {"kept": 1, "of": 1e30}}'
        )
        result = parse_result(payload)
        assert result == Result("1", "t", "ok", {}, usage={"y": 7})
        assert parse_result(encode_result(result)) == result


class TestTheRest:
    @given(names, st.integers(0, 2**40), st.text(st.characters(codec="utf-8")))
    def test_a_chunk_survives_the_round_trip(self, id_: str, seq: int, text: str) -> None:
        assert parse_chunk(encode_chunk(Chunk(id_, seq, text))) == Chunk(id_, seq, text)

    def test_a_chunk_may_say_how_far_the_work_is(self) -> None:
        chunk = Chunk("1", 2, "", done=3, of=17)
        assert encode_chunk(chunk) == b'{"id": "1", "seq": 2, "text": "", "progress": {"done": 3, "of": 17}}'
        assert parse_chunk(encode_chunk(chunk)) == chunk
        for other in (b'{"done": 3}', b'"half"', b'{"done": "3", "of": 1e300}'):
            payload = b'{"id": "1", "seq": 2, "text": "", "progress": ' + other + b"}"
            assert parse_chunk(payload) == Chunk("1", 2, "")

    @pytest.mark.parametrize(
        "payload", [b"[]", b'{"id": "1", "seq": true, "text": ""}', b'{"id": 1}', b"\xff"]
    )
    def test_what_is_no_chunk(self, payload: bytes) -> None:
        with pytest.raises(ProtocolError):
            parse_chunk(payload)

    def test_state(self) -> None:
        assert encode_state("online", "b1") == b'{"state": "online", "boot_id": "b1"}'
        assert parse_state(encode_state("offline", "b1")) == State("offline", "b1")
        with pytest.raises(ProtocolError):
            parse_state(b'{"state": "asleep", "boot_id": "b1"}')

    def test_cancel(self) -> None:
        assert parse_cancel(encode_cancel("42")) == Cancel(id="42")
        assert parse_cancel(b"", b"\x01") == Cancel(correlation=b"\x01")
        assert parse_cancel(encode_cancel("42"), b"\x01") == Cancel(correlation=b"\x01")
        for payload in (b"", b"42", b"{}", b'{"id": 42}', b'{"id": ""}', b"\xff"):
            with pytest.raises(InvalidRequest):
                parse_cancel(payload)

    def test_dead_carries_the_reason_and_no_text(self) -> None:
        payload = encode_dead(id="1", task="t", reply_to="r", error=ErrorBody("poisoned", "crashed twice"))
        assert json.loads(payload) == {
            "id": "1",
            "task": "t",
            "reply_to": "r",
            "reason": "poisoned",
            "message": "crashed twice",
        }

    def test_a_document_has_only_numbers_that_json_has(self) -> None:
        assert json.loads(encode_document({"a": math.inf, "b": [1.5]})) == {"a": None, "b": [1.5]}

    @given(
        st.text(st.characters(codec="utf-8")).filter(str.strip),
        st.none() | st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=50),
    )
    def test_an_encoded_request_is_understood(self, text: str, id_: str | None) -> None:
        payload = encode_request(text, options={"seed": 1}, id=id_, reply_to="edgeslm/v1/a/res/b")
        request = accepted(payload)
        assert (request.input, request.options, request.reply_to) == (text, {"seed": 1}, "edgeslm/v1/a/res/b")
        assert id_ is None or request.id == id_
