"""Text splitting: divides a text that is too long for one model call."""

from __future__ import annotations

import re

from edgeslm.knowledge.documents.sentences import PARAGRAPH, SENTENCE_END

_BORDERS = (PARAGRAPH, SENTENCE_END, re.compile(r"\n"), re.compile(r"\s+"))
"""Patterns of the boundaries of parts, preferred ones first: paragraphs, sentences, lines, words."""


def split_parts(text: str, most: int) -> list[tuple[int, int]]:
    """Start and end of each part: at most ``most`` characters, without surrounding whitespace.

    Each part except the last is at least about ``most / 2`` characters long, so that there are few parts.
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
    """Last boundary of the most preferred kind between ``first`` and ``last``; ``last`` if there is none."""
    for pattern in _BORDERS:
        ends = [match.end() for match in pattern.finditer(text, first, last) if match.end() > first]
        if ends:
            return ends[-1]
    return max(last, first + 1)
