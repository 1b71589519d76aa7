"""Quotes by grammar: a decoder may write runs of words of a text alone, and where they stand in it."""

from __future__ import annotations

import json

from edgeslm.engine.calls import Guide


def quote_guide(text: str) -> Guide:
    """A grammar of all runs of words of the text (llguidance, ``substring_words``).

    Space between words is that of the text, line ends too, so that what is written stands there as it is.
    """
    return Guide("lark_grammar", "start: QUOTE\nQUOTE: %regex " + json.dumps({"substring_words": text}))


def find_quote(written: str, text: str) -> tuple[int, int] | None:
    """Where in the text stands what was written, in characters.

    None for nothing but space, and for what stands nowhere, as a stop string or the end of the room may
    leave half a character.
    """
    quote = written.strip()
    start = text.find(quote) if quote else -1
    return (start, start + len(quote)) if start >= 0 else None
