"""Where the sentences of a text are: one rule for what is looked at again, quoted, checked and told."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

SENTENCE_END: Final = re.compile(
    r"(?<=[.!?])(?<!\b[A-Za-z]\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)(?<!\bcf\.)(?<!\bvs\.)(?<!\bNo\.)"
    r"(?<!\bDr\.)[\"'”’)\]]*+\s++(?=[\"'“‘(\[]*+[^\W\d_a-z])|(?<=[。！？])"
)
_PARAGRAPH: Final = re.compile(r"\n[^\S\n]*\n\s*")
_MARK: Final = r"[^\S\n]*(?:[-*+•–]|\d{1,3}[.)])[^\S\n]"
ITEM: Final = re.compile(_MARK)
"""How an item of a list begins."""
_ITEM: Final = re.compile(rf"\n(?={_MARK})")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, without the blanks around it; items of lists and what stands between
    empty lines are some too."""
    borders = {0, len(text)}
    for pattern in (SENTENCE_END, _PARAGRAPH, _ITEM):
        borders.update(match.end() for match in pattern.finditer(text))
    spans = []
    ordered = sorted(borders)
    for start, end in pairwise(ordered):
        part = text[start:end]
        if stripped := part.strip():
            start += len(part) - len(part.lstrip())
            spans.append((start, start + len(stripped)))
    return spans
