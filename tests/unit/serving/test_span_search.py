"""Spans of long texts, found piece by piece."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.zero_shot import Gliner
from edgeslm.engine.calls import Cost, FindSpans, Output
from edgeslm.errors import InternalError, TooLong
from edgeslm.redaction.patterns import Span
from edgeslm.serving.span_search import find_spans

NAME = re.compile(r"Max(?: \w+){0,3}")
MODEL = Gliner(label_token=1, text_token=2, longest=4, most_words=20)


class FakeModel:
    """Finds a Max with up to three further words; has room for ``room`` characters."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.calls: list[FindSpans] = []

    async def ask(self, call: FindSpans) -> Output:
        self.calls.append(call)
        if len(call.text) > self.room and call.overflow == "error":
            raise TooLong("too long")
        places = tuple((*match.span(), 0.9) for match in NAME.finditer(call.text))
        return Output(Cost(), probabilities=(0.9, 0.1), places=(places, ()))


def search(text: str, model: FakeModel) -> list[Span]:
    return asyncio.run(find_spans(text, ("person", "city"), MODEL, None, model.ask))


@given(
    st.lists(st.sampled_from(["pump", "Max", "12:30", "hot", "a" * 30, "\n"]), max_size=90),
    st.integers(8, 90),
)
def test_no_span_of_a_long_text_is_missed(words: list[str], room: int) -> None:
    text, model = " ".join(words), FakeModel(room)
    covered = {place for span in search(text, model) for place in range(span.start, span.end)}
    firsts = {place for match in re.finditer("Max", text) for place in range(*match.span())}
    assert firsts <= covered
    assert all(len(re.findall(r"\w+|\S", call.text)) <= MODEL.most_words for call in model.calls)


def test_a_span_at_the_border_of_two_pieces_is_found_as_a_whole() -> None:
    for before in range(50):
        text = "pump " * before + "Max von der Mühle" + ", hot" * 20
        assert Span(5 * before, 5 * before + 17, "person") in search(text, FakeModel())


def test_a_text_without_words_asks_nobody() -> None:
    model = FakeModel()
    assert search(" \n", model) == [] and model.calls == []


def test_a_word_that_does_not_fit_by_itself_is_read_by_its_head() -> None:
    model = FakeModel(room=40)
    assert Span(51, 54, "person") in search("x" * 50 + " Max", model)
    assert [call.overflow for call in model.calls][-1] == "head"


def test_a_failure_is_not_an_empty_text() -> None:
    async def fail(call: FindSpans) -> Output:
        raise InternalError("no")

    with pytest.raises(InternalError):
        asyncio.run(find_spans("Max", ("person",), MODEL, None, fail))
