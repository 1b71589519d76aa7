"""Fields by words of the message: what lines mean, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from edgeslm.cli.teach.marking import mark, read_value, words_of

TEXT = 'Press M3, hall 2: "door" is at 91°C (was -5).'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "machine": {"type": "string"},
        "temperature_c": {"type": "number"},
        "state": {"enum": ["open", "closed", None]},
    },
    "required": ["machine"],
}
FIELDS = SCHEMA["properties"]


def words(text: str) -> list[str]:
    return [text[slice(*word)] for word in words_of(text)]


def test_words_have_no_punctuation_at_their_ends() -> None:
    assert words(TEXT) == ["Press", "M3", "hall", "2", "door", "is", "at", "91°C", "was", "-5"]


@pytest.mark.parametrize(
    ("field", "said", "value"),
    [
        (FIELDS["machine"], "2", "M3"),
        (FIELDS["machine"], "1-2", "Press M3"),
        (FIELDS["machine"], "1 2", "Press M3"),
        (FIELDS["machine"], "hall 2", "hall 2"),
        (FIELDS["machine"], "=2", "2"),
        (FIELDS["machine"], "11", "11"),
        (FIELDS["temperature_c"], "8", 91),
        (FIELDS["temperature_c"], "10", -5),
        (FIELDS["temperature_c"], "=91", 91),
        (FIELDS["temperature_c"], "91.5", 91.5),
        ({"type": "boolean"}, "y", True),
        ({"type": ["boolean", "null"]}, "no", False),
        (FIELDS["state"], "OPEN", "open"),
        (FIELDS["state"], "c", "closed"),
        ({"type": "array"}, '["a"]', ["a"]),
    ],
)
def test_what_a_line_means(field: dict[str, Any], said: str, value: Any) -> None:
    assert read_value(TEXT, words_of(TEXT), field, said) == value


@pytest.mark.parametrize(
    ("field", "said", "sentence"),
    [
        (FIELDS["machine"], "4-2", "numbers from 1 to 10"),
        (FIELDS["machine"], "4-44", "numbers from 1 to 10"),
        (FIELDS["temperature_c"], "1", "isn't one number"),
        (FIELDS["temperature_c"], "hot", "Type a number"),
        ({"type": "integer"}, "=1.5", "Type a whole number"),
        ({"type": "boolean"}, "1", "Type y or n"),
        ({"type": "boolean"}, "maybe", "Type y or n"),
        (FIELDS["state"], "ajar", "The value is one of open, closed"),
        ({"type": "array"}, "[", "as JSON"),
    ],
)
def test_what_means_nothing_is_told(field: dict[str, Any], said: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_value(TEXT, words_of(TEXT), field, said)


def marked(texts: list[str], *lines: str) -> list[tuple[str, Mapping[str, Any]]]:
    """What is stored, of a person who types these lines."""
    kept: list[tuple[str, Mapping[str, Any]]] = []
    typed = iter(lines)
    count = mark(texts, SCHEMA, lambda *row: kept.append(row), lambda: next(typed, ""))
    assert count == len(kept)
    return kept


def test_rows_have_all_fields_and_null_for_the_missing() -> None:
    fields = {"machine": "M3", "temperature_c": None, "state": "open"}
    assert marked([TEXT], "2\n", "\n", "open\n") == [(TEXT, fields)]


def test_a_required_field_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    ((_, fields),) = marked([TEXT], "\n", "2\n", "hot\n", "=91\n", "\n")
    assert fields == {"machine": "M3", "temperature_c": 91, "state": None}
    assert "The schema requires machine" in capsys.readouterr().out


def test_the_last_message_is_taken_back_and_messages_are_skipped() -> None:
    row = ("2\n", "\n", "\n")
    kept = marked(
        [TEXT, "skipped", "M4 ok"], *row, "u\n", "1-2\n", "\n", "\n", "s\n", "1\n", "\n", "\n", "q\n"
    )
    assert [(text, fields["machine"]) for text, fields in kept] == [(TEXT, "Press M3"), ("M4 ok", "M4")]


def test_the_end_of_the_input_and_an_interrupt_keep_what_is_whole() -> None:
    assert len(marked([TEXT, "M4"], "2\n", "\n", "\n", "1\n")) == 1
    kept: list[str] = []
    typed = iter(["2\n", "\n", "\n"])

    def read() -> str:
        try:
            return next(typed)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        mark([TEXT, "M4"], SCHEMA, lambda text, fields: kept.append(text), read)
    assert kept == [TEXT]
