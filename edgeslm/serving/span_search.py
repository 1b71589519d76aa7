"""Span search: finds names and the like in a text of any length with a zero-shot model of kind ``gliner``.

The text is read in pieces of at most ``PIECE_WORDS`` words. The pieces overlap by the longest span with the
words before it, so that no span is cut in two. A word that is too long for the model, such as a token or a
text without spaces, is read in slices that overlap by half.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from edgeslm.bundle.zero_shot import Gliner
from edgeslm.engine.calls import FindSpans, Output
from edgeslm.errors import Busy, TooLong
from edgeslm.messages import Attempt
from edgeslm.redaction.patterns import Span

PIECE_WORDS: Final = 256
CONTEXT_WORDS: Final = 8
"""Number of words before a span that a model should see."""
_WORD: Final = re.compile(r"\w+(?:[-_]\w+)*|\S")
"""Pattern of a word, as in ``engine.worker.gliner``."""


async def find_spans(
    text: str,
    labels: Sequence[str],
    model: Gliner,
    least: float | None,
    ask: Callable[[FindSpans], Awaitable[Output]],
) -> list[Span]:
    """The spans of each label, by their character offsets; they may overlap.

    :param least: lowest probability of a span; None: the model's own.
    :param ask: runs a call. :raises RequestError: a call failed, so that the text wasn't read as a whole.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    found: list[Span] = []

    async def read(start: int, end: int) -> bool:
        """Whether the part of the text fits; adds what is found in it."""
        try:
            output = await ask(FindSpans(text[start:end], tuple(labels), "error", least))
        except TooLong:
            return False
        for label, places in zip(labels, output.places, strict=True):
            found.extend(Span(start + first, start + last, label) for first, last, _ in places)
        return True

    most, at = min(PIECE_WORDS, model.most_words), 0
    while at < len(words):
        count = min(most, len(words) - at)
        while count and not await read(words[at][0], words[at + count - 1][1]):
            count //= 2
        if not count:
            await _read_slices(*words[at], read)
            at += 1
        elif at + count == len(words):
            break
        else:
            at += count - min(model.longest + CONTEXT_WORDS, count * 3 // 4)
    return found


class TimedAttempt(Attempt):
    """Passes on to ``attempt``. ``limit`` runs for ``limit_s`` seconds while the call is computed, and not
    while it waits for a model."""

    def __init__(self, attempt: Attempt | None, limit: asyncio.Timeout, limit_s: float) -> None:
        self._attempt, self._limit, self._limit_s = attempt, limit, limit_s

    def compute(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + self._limit_s)
        if self._attempt is not None:
            with suppress(Busy):
                self._attempt.compute()

    def wait(self) -> None:
        self._limit.reschedule(None)
        if self._attempt is not None:
            self._attempt.wait()

    def crash(self) -> None:
        if self._attempt is not None:
            self._attempt.crash()

    def hang(self) -> None:
        if self._attempt is not None:
            self._attempt.hang()


async def _read_slices(start: int, end: int, read: Callable[[int, int], Awaitable[bool]]) -> None:
    """Reads a word that is too long. :raises TooLong: not even a single character fits."""
    at, size = start, end - start
    while at < end:
        if await read(at, min(at + size, end)):
            if at + size >= end:
                return
            at += max(1, size // 2)
        elif size == 1:
            raise TooLong("the model has no room for a single character")
        else:
            size //= 2
