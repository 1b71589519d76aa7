"""Results in words on a terminal, and as JSON elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeslm.cli.results import in_words, print_result
from edgeslm.messages import ErrorBody, Result

PASSAGE = {
    "id": "1",
    "source": "a.md",
    "heading": "Oil",
    "text": "\n".join("abcdefg"),
    "score": 0.5,
    "start": 0,
    "end": 13,
}


def words(found: dict[str, Any] | None = None, **fields: Any) -> list[str]:
    fields = {"status": "ok", "model": "small@sha256:1f3a", "timings_ms": {"total": 22.4}, **fields}
    return list(in_words(Result("1", "t", result=found, **fields)))


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            {"label": "b", "confidence": 0.9, "scores": {"a": 0.1, "b": 0.9}, "stage": "small"},
            ["b  0.90  (a 0.10)", "  [small@sha256:1f3a, 22 ms]"],
        ),
        (
            {"label": "b", "stage": "openai:big", "taught": False},
            ["b", "  [openai:big, small@sha256:1f3a, 22 ms, untrained: often wrong]"],
        ),
        (
            {"fields": {"machine": "press 4", "bar": 3.5}, "spans": {}},
            ["machine: press 4", "bar: 3.5", "  [small@sha256:1f3a, 22 ms]"],
        ),
        (
            {
                "text": "Use oil.",
                "citations": [{"source": "a.md", "quote": "Use oil.", "start": 3, "end": 11}],
            },
            ["Use oil.", "  from a.md, characters 3 to 11", "  [small@sha256:1f3a, 22 ms]"],
        ),
        ({"vector": [0.1, 0.2]}, ["a vector of 2 numbers", "  [small@sha256:1f3a, 22 ms]"]),
        (
            {"text": "", "finish_reason": "tool_calls", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
            ["no text", 'call f({"x": 1})', "  [small@sha256:1f3a, 22 ms]"],
        ),
    ],
)
def test_each_kind_of_result_has_words(found: dict[str, Any], lines: list[str]) -> None:
    assert words(found) == lines


def test_a_declined_answer_shows_the_beginning_of_its_passages() -> None:
    found = {"text": "", "citations": [], "confidence": 0.1, "passages": [PASSAGE]}
    shown = words(found, status="abstained")
    assert shown[:2] == ["no answer; the best passages:", "0.50  a.md > Oil"]
    assert shown[-2] == "      ... 2 more lines"


def test_an_uncertain_result_says_so() -> None:
    assert words({"label": "b", "confidence": 0.4}, status="abstained")[0] == "not sure: b  0.40"


def test_an_error_is_its_code_and_sentence() -> None:
    failed = Result("1", "t", "error", error=ErrorBody("busy", "the queue is full"))
    assert list(in_words(failed)) == ["busy: the queue is full"]


def test_json_goes_to_pipes_and_to_who_wants_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Result("1", "t", "ok", {"label": "b\x1b[2J"})
    print_result(result, as_json=False)
    assert json.loads(capsys.readouterr().out)["id"] == "1"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_result(result, as_json=True)
    assert json.loads(capsys.readouterr().out)["id"] == "1"
    print_result(result, as_json=False)
    said = capsys.readouterr().out
    assert said.startswith("b") and "\x1b" not in said
