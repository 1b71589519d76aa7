"""Text splitting: where to part a text that is too long to be read at once. Knows no engine."""

from __future__ import annotations

import re

from edgeslm.knowledge.documents.sentences import PARAGRAPH, SENTENCE_END

_BORDERS = (PARAGRAPH, SENTENCE_END, re.compile(r"\n"), re.compile(r"\s+"))
"""Between paragraphs, else between sentences, else lines, else words."""


def split_parts(text: str, most: int) -> list[tuple[int, int]]:
    """Start and end of parts of at most ``most`` characters, without the blanks around them.

    A part is at least half as long as it may be, so that there are few of them.
    """
    spans = []
    start = 0
    while start < len(text):
        end = len(text) if len(text) - start <= most else _border(text, start + most // 2, start + most)
        part = text[start:end]
        if stripped := part.strip():
            first = start + len(part) - len(part.lstrip())
            spans.append((first, first + len(stripped)))
        start = end
    return spans


def _border(text: str, first: int, last: int) -> int:
    """The last place between two offsets where it harms least; ``last`` if it harms everywhere."""
    for pattern in _BORDERS:
        ends = [match.end() for match in pattern.finditer(text, first, last) if match.end() > first]
        if ends:
            return ends[-1]
    return max(last, first + 1)
