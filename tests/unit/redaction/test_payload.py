"""What is redacted in texts and JSON payloads, and what stays byte by byte."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.config.remote_stages import Pattern
from edgeslm.errors import InvalidRequest
from edgeslm.redaction.patterns import PATTERNS, Span, find_exact, merge, replace
from edgeslm.redaction.payload import Payload

ALL = tuple(PATTERNS)
FORMS = tuple(kind for kind in ALL if kind != "number")
PLANTED = {
    "phone": ["+49 171 2345678", "0171/2345678", "(0711) 998877", "555-123-4567", "+1 (415) 555-2671"],
    "email": ["max.muster@example.org", "o'brien@example.co.uk", "a+b%c@x-y.de"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB33BUKB20201555555555", "FR14 2004 1010 0505 0001 3M02 606"],
    "card": ["4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"],
    "ip": ["10.1.2.3", "fe80::1"],
    "mac": ["00:1a:2b:3c:4d:5e"],
    "url": ["https://max:secret@example.org/a?b=1", "rtsp://u:p@cam/1", "www.example.org"],
}
CLEAN = st.lists(
    st.sampled_from(["Spindle", "smells", "of burnt", "oil", "at 12:30", "81.5 %", "Ölstand", "[ok]", "\n"]),
    max_size=6,
).map(" ".join)
WORDS = st.lists(st.sampled_from(["Spindle", "ruf", "Ölstand,", "[ok]", "\n", "(a)"]), max_size=4).map(
    " ".join
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.integers(), st.text(), CLEAN),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def redact(text: str, *kinds: str) -> str:
    return Payload(text).redact(kinds or FORMS)


def test_each_form_of_the_configuration_has_an_expression() -> None:
    assert get_args(Pattern) == ("email", "phone", "iban", "card", "ip", "mac", "url", "number")
    assert set(get_args(Pattern)) == set(ALL)


@given(WORDS, st.sampled_from([(kind, data) for kind, found in PLANTED.items() for data in found]), WORDS)
def test_no_character_of_planted_data_is_left(before: str, planted: tuple[str, str], after: str) -> None:
    kind, data = planted
    assert redact(f"{before} {data} {after}", kind) == f"{before} [{kind}] {after}"
    wrapped = json.loads(redact(json.dumps({"a": [f"{before} {data} {after}"]}), kind))
    assert wrapped == {"a": [f"{before} [{kind}] {after}"]}


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("01.12.2026 0171 2345678", "[phone]"),
        ("Tel 0171 2345678 / 0172 3456789", "Tel [phone]"),
        ("089 123456 0171 2345678", "[phone]"),
        ("(555) 123-4567 (555) 765-4321", "[phone]"),
        ("call 0171 2345678, 3 times", "call [phone], 3 times"),
    ],
)
def test_digits_beside_a_phone_number_go_with_it(text: str, redacted: str) -> None:
    """A date or a second number left the last digits of a number in the text."""
    assert redact(text, "phone") == redacted


def test_letters_that_lower_case_makes_ascii_are_no_iban() -> None:
    assert redact("AB12 ıstanbul1 33334444", "iban") == "AB12 ıstanbul1 33334444"


@given(CLEAN)
def test_a_text_without_data_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_json_stays_json_with_its_structure(value: Any, ascii_only: bool, indent: int | None) -> None:
    """Strings and numbers may change, all else stays; without a change the payload is the same text."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    changed = redact(text, *ALL)
    new = json.loads(changed)
    assert _shape(new) == _shape(value)
    if new == value and repr(new) == repr(value):
        assert changed == text


@given(st.text(alphabet='{}[]",:\\u00e1 0@.+-a\n', max_size=60))
def test_what_is_no_json_never_fails(text: str) -> None:
    once = redact(text, *ALL)
    assert redact(once, *ALL) == once


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return "text or number" if isinstance(value, str | int | float) and not isinstance(value, bool) else value


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ('{"card": 4111111111111111, "n": 1e3}', '{"card": "[card]", "n": 1e3}'),
        ('{"phone": 4917112345678, "ts": 4917112345678}', '{"phone": "[phone]", "ts": 4917112345678}'),
        ('{"mobileNumber": 1712345678}', '{"mobileNumber": "[phone]"}'),
        ('{"telemetry": 1712345678, "at": 1733155200123}', '{"telemetry": 1712345678, "at": 1733155200123}'),
        ('{"max@x.org": "max@x.org"}', '{"max@x.org": "[email]"}'),
        (r'{"a": "ruf\n\u002b49 171 2345678"}', r'{"a": "ruf\n[phone]"}'),
        ('{"a": "ü max@x.org", "b": NaN}', '{"a": "ü [email]", "b": NaN}'),
        (r'{"a": "\ud800 ü max@x.org"}', r'{"a": "\ud800 \u00fc [email]"}'),
        ("4111111111111111", '"[card]"'),
        ('"max@x.org"', '"[email]"'),
        ('{"a": "max@x.org"} {"b": "max@x.org"}', '{"a": "[email]"} {"b": "[email]"}'),
        ("1234 4111 1111 1111 1111", "1234 [card]"),
        ("4111 1111 1111 1111 4111 1111 1111 1111", "[card] [card]"),
        ("a@b.c,d@e.f", "[email],[email]"),
        ('{"phone": "171 2345678", "n": "171 2345678"}', '{"phone": "[phone]", "n": "171 2345678"}'),
        ('{"telNr": "2345678", "homeFax": 2345678}', '{"telNr": "[phone]", "homeFax": "[phone]"}'),
        ('{"telefon": "2345678 (home), 3456789"}', '{"telefon": "[phone] (home), [phone]"}'),
        ('{"hotel": "2345678", "excel": 2345678}', '{"hotel": "2345678", "excel": 2345678}'),
        ("fe80::1: link is down", "[ip]: link is down"),
        ("mac:00:1a:2b:3c:4d:5e or mac=00-1a-2b-3c-4d-5e", "mac:[mac] or mac=[mac]"),
        ("visa-4111111111111111, order-4111111111111112", "visa-[card], order-4111111111111112"),
        ("12:00:1a:2b:3c:4d:5e", "12:00:1a:2b:3c:4d:5e"),
        ("'max@x.org'", "'[email]'"),
    ],
)
def test_forms_in_payloads(payload: str, shown: str) -> None:
    assert redact(payload) == shown


def test_a_json_number_of_four_digits_is_a_number() -> None:
    assert (
        redact('{"a": 4711, "b": 12, "c": 0.12345}', "number")
        == '{"a": "[number]", "b": 12, "c": "[number]"}'
    )


def test_a_model_reads_the_strings_with_their_keys_and_its_spans_are_replaced_in_them() -> None:
    payload = Payload('{"by": "Max Muster", "n": 3, "notes": ["", "Max is out"], "x": {"by": "Eva\\n"}}')
    text = payload.for_model()
    assert text == "by: Max Muster\nnotes: \nnotes: Max is out\nby: Eva\n"
    spans = [Span(text.index("Max Muster"), text.index("\nnotes"), "person")]
    assert payload.redact((), spans).startswith('{"by": "[person]", "n": 3, "notes": ["", "Max is out"]')
    assert payload.redact((), [Span(0, len(text), "person")]) == (
        '{"by": "[person]", "n": 3, "notes": ["", "[person]"], "x": {"by": "[person]"}}'
    )


def test_a_model_gets_no_lone_surrogates() -> None:
    assert Payload(r'{"a": "\ud800 x"}').for_model() == "a: \ufffd x"


def test_spans_that_overlap_become_one() -> None:
    spans = [Span(4, 9, "person"), Span(0, 5, "phone"), Span(8, 20, "address"), Span(21, 22, "x")]
    assert merge(spans) == [Span(0, 20, "address"), Span(21, 22, "x")]
    assert replace("a" * 22, merge(spans), lambda span: f"[{span.kind}]") == "[address]a[x]"


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="nested"):
        Payload("[" * 200_000 + "]" * 200_000)


def test_an_earlier_kind_hides_its_span_from_the_later_ones() -> None:
    assert [span.kind for span in find_exact("https://x.org/4711 4711 a@4711.org", ALL)] == [
        "url",
        "number",
        "email",
    ]
