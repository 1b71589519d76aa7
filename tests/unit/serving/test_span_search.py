"""Spans of long texts, found piece by piece."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.zero_shot import Gliner
from edgeslm.engine.calls import Cost, FindSpans, Output
from edgeslm.errors import Busy, InternalError, TooLong
from edgeslm.messages import Turn
from edgeslm.redaction.patterns import Span
from edgeslm.serving.span_search import TimedAttempt, find_spans

NAME = re.compile(r"(?<=ask )Max(?: \w+){0,3}")
MODEL = Gliner(label_token=1, text_token=2, longest=4, most_words=20)
WORDS = st.lists(st.sampled_from(["pump", "ask", "Max", "12:30", "a" * 30, "\n"]), max_size=90)


class FakeModel:
    """Finds a Max with up to three further words, if it reads the word before; has room for ``room``
    characters."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.calls: list[str] = []

    async def ask(self, call: FindSpans) -> Output:
        assert call.overflow == "error"
        self.calls.append(call.text)
        if len(call.text) > self.room:
            raise TooLong("too long")
        places = tuple((*match.span(), 0.9) for match in NAME.finditer(call.text))
        return Output(Cost(), probabilities=(0.9, 0.1), places=(places, ()))


def search(text: str, model: FakeModel) -> list[Span]:
    return asyncio.run(find_spans(text, ("person", "city"), MODEL, None, model.ask))


@given(WORDS, st.integers(60, 200))
def test_no_span_of_a_long_text_is_missed(words: list[str], room: int) -> None:
    text, model = " ".join(words), FakeModel(room)
    covered = {place for span in search(text, model) for place in range(span.start, span.end)}
    assert {place for match in re.finditer("(?<=ask )Max", text) for place in range(*match.span())} <= covered
    assert all(len(re.findall(r"\w+|\S", call)) <= MODEL.most_words for call in model.calls)


def test_a_span_at_the_border_of_two_pieces_is_found_as_a_whole() -> None:
    for before in range(50):
        text = "pump " * before + "ask Max von der Mühle" + ", hot" * 20
        assert Span(5 * before + 4, 5 * before + 21, "person") in search(text, FakeModel())


def test_after_a_word_that_does_not_fit_pieces_are_as_long_as_before() -> None:
    body = "ask Max Muster, is it hot? " * 60
    alone = FakeModel(room=400)
    names = len(set(search(body, alone)))
    around = FakeModel(room=400)
    found = set(search(f"{body} eyJ{'a' * 1600} {body}", around))
    assert len(found) >= 2 * names >= 120
    assert len(around.calls) < 2 * len(alone.calls) + 60


def test_a_text_without_spaces_is_read_in_slices() -> None:
    text = "泵" * 700 + " ask Max"
    model = FakeModel(room=100)
    assert Span(705, 708, "person") in search(text, model)
    read = "".join(call for call in model.calls if len(call) <= 100)
    assert read.count("泵") >= 700


def test_a_text_without_words_asks_nobody() -> None:
    model = FakeModel()
    assert search(" \n", model) == [] and model.calls == []


def test_a_model_without_room_is_a_failure() -> None:
    with pytest.raises(TooLong):
        search("Max", FakeModel(room=0))


def test_a_failure_is_not_an_empty_text() -> None:
    async def fail(call: FindSpans) -> Output:
        raise InternalError("no")

    with pytest.raises(InternalError):
        asyncio.run(find_spans("Max", ("person",), MODEL, None, fail))


def test_the_time_limit_runs_only_while_a_call_is_computed() -> None:
    class FullJournal(Turn):
        def compute(self) -> None:
            raise Busy("the journal is full")

    async def main() -> list[float | None]:
        seen = []
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                attempt = TimedAttempt(FullJournal(), limit, 60.0)
                for step in (attempt.compute, attempt.wait, attempt.compute):
                    step()
                    seen.append(limit.when())
        return seen

    first, waiting, last = asyncio.run(main())
    assert first is not None and waiting is None and last is not None
