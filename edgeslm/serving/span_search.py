"""Span search: finds names and the like in a text of any length with a zero-shot model of kind ``gliner``.

The text is read in pieces of at most ``PIECE_WORDS`` words. The pieces overlap by the length of the longest
span, so that no span is cut in two.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from edgeslm.bundle.zero_shot import Gliner
from edgeslm.engine.calls import FindSpans, Output, Overflow
from edgeslm.errors import TooLong
from edgeslm.redaction.patterns import Span

PIECE_WORDS: Final = 256
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
    most, at = min(PIECE_WORDS, model.most_words), 0
    found: list[Span] = []
    while at < len(words):
        piece = words[at : at + most]
        start, end = piece[0][0], piece[-1][1]
        # A word that is too long by itself is read by its first tokens.
        overflow: Overflow = "error" if most > 1 else "head"
        try:
            output = await ask(FindSpans(text[start:end], tuple(labels), overflow, least))
        except TooLong:
            if most == 1:
                raise
            most //= 2
            continue
        for label, places in zip(labels, output.places, strict=True):
            found += [Span(start + first, start + last, label) for first, last, _ in places]
        if at + len(piece) == len(words):
            break
        at += len(piece) - min(model.longest - 1, most // 2)
    return found
