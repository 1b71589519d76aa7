"""What comes on the feedback topic."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.feedback import Feedback, parse_feedback

LABEL: dict[str, Any] = {"task": "triage", "input": "Fire!", "label": "critical"}
FIELDS: dict[str, Any] = {"task": "fields", "id": "42", "fields": {"machine": "press 4", "hours": [1, None]}}


def without(key: str, **more: Any) -> bytes:
    return json.dumps({name: value for name, value in {**LABEL, **more}.items() if name != key}).encode()


def changed(**more: Any) -> bytes:
    return json.dumps({**LABEL, **more}).encode()


def test_a_label_for_a_text() -> None:
    assert parse_feedback(json.dumps(LABEL).encode()) == Feedback(**LABEL)


def test_fields_for_an_earlier_request() -> None:
    assert parse_feedback(json.dumps(FIELDS).encode()) == Feedback(**FIELDS)


def test_a_text_is_kept_as_it_is() -> None:
    text = "  Grüße 🙂\n\tline two \u2028"
    assert parse_feedback(changed(input=text)).input == text


def test_half_a_surrogate_pair_can_be_written_to_a_file() -> None:
    assert parse_feedback(b'{"task": "a", "input": "\\ud800!", "label": "x"}').input == "\ufffd!"


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "Expecting value at line 1"),
        (b"{", "at line 1, column 2"),
        (b"\xff", "isn't UTF-8"),
        (b'{"task": "a", "task": "b"}', "twice"),
        (b'"triage"', "is a JSON object"),
        (b"[]", "is a JSON object"),
        (b"null", "is a JSON object"),
        (changed(labels=["a"]), "has no field 'labels'"),
        (without("task"), "names its task"),
        (changed(task=5), "task of a feedback message must be a text"),
        (changed(task=""), "task of a feedback message must be a text"),
        (changed(input=None), "input of a feedback message must be a text"),
        (changed(input={"messages": []}), "input of a feedback message must be a text"),
        (changed(input=" \n"), "input of a feedback message must be a text that isn't empty"),
        (changed(label=""), "label of a feedback message must be a text"),
        (changed(label=["critical"]), "label of a feedback message must be a text"),
        (without("input", id=7), "id of a feedback message must be a text"),
        (without("input"), "the input, or the id of the request, and not both"),
        (changed(id="42"), "the input, or the id of the request, and not both"),
        (without("label"), "a label, or fields, and not both"),
        (changed(fields={"machine": "x"}), "a label, or fields, and not both"),
        (without("label", fields={}), "must be a JSON object that isn't empty"),
        (without("label", fields=["machine"]), "must be a JSON object that isn't empty"),
        (without("label", fields=None), "must be a JSON object that isn't empty"),
    ],
)
def test_what_is_no_feedback(payload: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_feedback(payload)
    assert sentence in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*LABEL, *FIELDS, "x"]), json_values, max_size=5))
def test_any_object_is_feedback_or_refused(changes: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        found = parse_feedback(json.dumps({**LABEL, **changes}).encode())
        assert found.task.strip()
        assert (found.input is None) != (found.id is None)
        assert (found.label is None) != (found.fields is None)


@given(st.binary(max_size=60))
def test_any_bytes_are_feedback_or_refused(payload: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_feedback(payload)
