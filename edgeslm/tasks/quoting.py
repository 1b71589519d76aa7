"""Quote grammar: restricts a decoder to consecutive words of a text, and finds the quote in the text."""

from __future__ import annotations

import json

from edgeslm.engine.calls import Guide


def quote_guide(text: str) -> Guide:
    """A grammar that allows any consecutive words of a text (``substring_words`` of llguidance).

    The output keeps the whitespace of the text, so it occurs in the text verbatim.
    """
    return Guide("lark_grammar", "start: QUOTE\nQUOTE: %regex " + json.dumps({"substring_words": text}))


def find_quote(written: str, text: str) -> tuple[int, int] | None:
    """Character offsets, in the text, of the quote that the model wrote.

    The result is None if the output is blank or doesn't occur in the text. The output doesn't occur in the
    text if a stop string or ``max_tokens`` cuts a character in half.
    """
    quote = written.strip()
    start = text.find(quote) if quote else -1
    return (start, start + len(quote)) if start >= 0 else None
