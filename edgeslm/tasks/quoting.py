"""Quotes by grammar: a decoder may write runs of words of given texts alone, and where they stand there."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgeslm.engine.calls import Guide


def quote_guide(*texts: str) -> Guide:
    """A grammar of all runs of words of each text, none over two of them (llguidance, ``substring_words``).

    Space between words is that of the text, line ends too, so that what is written stands there as it is.
    """
    names = [f"QUOTE_{number}" for number in range(len(texts))]
    rules = [
        f"{name}: %regex {json.dumps({'substring_words': text})}"
        for name, text in zip(names, texts, strict=True)
    ]
    return Guide("lark_grammar", "\n".join([f"start: {' | '.join(names)}", *rules]))


def find_quote(written: str, texts: Sequence[str]) -> tuple[int, int, int] | None:
    """The first text that has what was written, and where: its number, start and end in characters.

    None for nothing but space, and for what stands nowhere, as a stop string or the end of the room may
    leave half a character.
    """
    quote = written.strip()
    if not quote:
        return None
    for number, text in enumerate(texts):
        start = text.find(quote)
        if start >= 0:
            return number, start, start + len(quote)
    return None
