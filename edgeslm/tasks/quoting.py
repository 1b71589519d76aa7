"""Quote grammar: restricts a decoder to runs of words of a text, and finds them in it."""

from __future__ import annotations

import json

from edgeslm.engine.calls import Guide


def quote_guide(text: str) -> Guide:
    """A grammar of all runs of words of a text (llguidance, ``substring_words``).

    Whitespace is that of the text, so that the output occurs in it verbatim.
    """
    return Guide("lark_grammar", "start: QUOTE\nQUOTE: %regex " + json.dumps({"substring_words": text}))


def find_quote(written: str, text: str) -> tuple[int, int] | None:
    """Character offsets of the output in the text.

    None if it is blank or doesn't occur: a stop string or ``max_tokens`` may leave half a character.
    """
    quote = written.strip()
    start = text.find(quote) if quote else -1
    return (start, start + len(quote)) if start >= 0 else None
