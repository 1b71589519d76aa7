"""What is redacted before it leaves, and put back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.redaction.patterns import PATTERNS
from edgeslm.remote.chat import RemoteError
from edgeslm.remote.redaction import Redaction

ALL = tuple(PATTERNS)


def hidden(text: str, *names: str) -> str:
    found = Redaction(names or ALL, [text]).hide(text)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("email", "to a.b+c@example.co.uk, now", "to [EMAIL_1], now"),
        ("email", f"{'x' * 100}@{'y' * 100}.de", "[EMAIL_1]"),
        ("phone", "tel:+49 711 123-4567.", "tel:[PHONE_1]."),
        ("phone", "(0711) 998877 or 0711/998877", "[PHONE_1] or [PHONE_2]"),
        ("phone", "555-123-4567", "[PHONE_1]"),
        ("phone", "Tel.:0171 2345678, Nr.0171/2345678", "Tel.:[PHONE_1], Nr.[PHONE_2]"),
        ("phone", "+49\u00a0171\u202f2345678, 030\u20131234567", "[PHONE_1], [PHONE_2]"),
        ("phone", "1-800-555-1234", "[PHONE_1]"),
        ("phone", r'{"a": "Call\n+49 171 2345678\n0171 2345678"}', r'{"a": "Call\n[PHONE_1]\n[PHONE_2]"}'),
        ("ip", r"at\n10.1.2.3\nfe80::1", r"at\n[IP_1]\n[IP_2]"),
        ("email", r"to\nmax@example.org", r"to\n[EMAIL_1]"),
        ("email", r"C:\max@example.org", r"C:\[EMAIL_1]"),
        ("number", r'{"a": "\n4711"}', r'{"a": "\n[NUMBER_1]"}'),
        ("card", "4111.1111.1111.1111", "[CARD_1]"),
        ("iban", "DE89-3704-0044-0532-0130-00 and de89 3704 0044 0532 0130 00", "[IBAN_1] and [IBAN_2]"),
        ("url", "www.example.org/x?token=1 is it", "[URL_1] is it"),
        ("phone", "81.5 degrees at 12:30:45, 3.14159265", "81.5 degrees at 12:30:45, 3.14159265"),
        ("iban", "DE89 3704 0044 0532 0130 00 TEXT", "[IBAN_1] TEXT"),
        ("iban", "GB33BUKB20201555555555", "[IBAN_1]"),
        ("iban", "DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        ("card", "4111 1111 1111 1111 2024", "[CARD_1] 2024"),
        ("card", "4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("ip", "ip:10.0.0.1:8080, addr:fe80::1, at 12:30:45", "ip:[IP_1]:8080, addr:[IP_2], at 12:30:45"),
        ("mac", "mac 00:1a:2b:3c:4d:5e", "mac [MAC_1]"),
        ("url", "see https://x.y/z?a=1 or mqtt://b", "see [URL_1] or [URL_2]"),
        ("number", "order K123456, 4711, press 4", "order [NUMBER_1], [NUMBER_2], press 4"),
        ("number", "9" * 200, "[NUMBER_1]"),
    ],
)
def test_each_pattern_hides_its_form(name: str, text: str, shown: str) -> None:
    assert hidden(text, name) == shown


def test_the_same_value_has_one_placeholder_in_all_texts() -> None:
    redaction = Redaction(["email"], [])
    assert redaction.hide([{"content": "a@b.c"}, {"content": "d@e.f a@b.c"}]) == [
        {"content": "[EMAIL_1]"},
        {"content": "[EMAIL_2] [EMAIL_1]"},
    ]
    assert redaction.restore({"to": ["[EMAIL_2]"], "n": 3}) == {"to": ["d@e.f"], "n": 3}


def test_a_text_that_has_a_placeholder_already_keeps_it() -> None:
    text = "tell [EMAIL_1] of a@b.c"
    redaction = Redaction(["email"], [text])
    assert redaction.hide(text) == "tell [EMAIL_1] of [EMAIL_2]"
    assert redaction.restore("[EMAIL_1]") == "[EMAIL_1]"


@given(st.text(alphabet="ab1 0@.+:-/[]_EMAILX()\n", max_size=80))
def test_what_was_hidden_comes_back(text: str) -> None:
    redaction = Redaction(ALL, [text])
    assert redaction.restore(redaction.hide(text)) == text


@pytest.mark.parametrize(
    "part", ["a", "1", "1 ", "a@", "0 ", "A1 ", "a:", "+1(", ".", "::", "1-", "AB12", "(0", "a.", "00:"]
)
def test_matching_takes_linear_time(part: str) -> None:
    def seconds(length: int) -> float:
        text = part * (length // len(part))
        started = time.process_time()
        hidden(text)
        return time.process_time() - started

    seconds(1000)
    assert seconds(200_000) < 200 * max(seconds(10_000), 0.005)


def test_many_values_take_linear_time() -> None:
    def seconds(count: int) -> float:
        text = " ".join(str(100_000 + number) for number in range(count))
        started = time.process_time()
        redaction = Redaction(["number"], [text])
        assert redaction.restore(redaction.hide(text)) == text
        return time.process_time() - started

    seconds(100)
    assert seconds(40_000) < 40 * max(seconds(2_000), 0.01)


def test_an_answer_that_repeats_a_placeholder_is_refused() -> None:
    redaction = Redaction(["url"], [])
    redaction.hide("https://example.org/" + "x" * 3000)
    with pytest.raises(RemoteError, match="repeats"):
        redaction.restore("[URL_1]" * 100_000)


def test_names_in_schemas_stay_and_their_values_are_hidden() -> None:
    schema = {
        "type": "object",
        "properties": {"mode_2024": {"enum": ["a@b.c", "x"], "description": "to d@e.f"}},
        "required": ["mode_2024"],
    }
    redaction = Redaction(["email", "number"], [])
    assert redaction.hide_schema(schema) == {
        "type": "object",
        "properties": {"mode_2024": {"enum": ["[EMAIL_1]", "x"], "description": "to [EMAIL_2]"}},
        "required": ["mode_2024"],
    }
