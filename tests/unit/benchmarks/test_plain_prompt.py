"""benchmarks/lib/plain_prompt.py: what a model with passages in its prompt is asked, and when it declines."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.benchmarks.scripts import load_scripts
from tests.support.passages import make_found

PLAIN = load_scripts("plain_prompt")["plain_prompt"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "I don't know.",
        "The passages do not mention it.",
        "This is not specified.",
        "No information.",
    ],
)
def test_declines(text: str) -> None:
    assert PLAIN.declines(text)


@pytest.mark.parametrize("text", ["Every 40 hours.", "No, it does not fill the disk."])
def test_answers(text: str) -> None:
    assert not PLAIN.declines(text)


def test_the_model_sees_the_passages_with_their_headings_and_the_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    class Llama:
        def __init__(self, path: str, **options: Any) -> None:
            asked.append(path)

        def create_chat_completion(self, messages: Any, **options: Any) -> Any:
            asked.append(messages)
            return {"choices": [{"message": {"content": "Weekly."}}]}

    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=Llama))
    model = PLAIN.PlainModel(Path("model.gguf"), 1)
    assert model.answer("How often?", [make_found("Oil it weekly.", heading="Care")]) == "Weekly."
    path, (message,) = asked
    assert path == "model.gguf"
    assert message["content"].endswith("Care\nOil it weekly.\n\nQuestion: How often?")
