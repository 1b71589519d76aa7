"""Sentence splitting: one implementation for search, quotes, checks and summaries."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from edgeslm.bundle.spans import Place

_LOWER: Final = "".join(letter for letter in map(chr, range(0x530)) if letter.islower())
"""Lower-case Latin, Greek and Cyrillic letters, with which no sentence begins. Letters of scripts without
case may begin a sentence."""
_ABBREVIATIONS: Final = (
    *("Abb", "Abs", "bspw", "bzw", "ca", "Dipl", "evtl", "ggf", "inkl", "Ing", "Kap", "Mio", "Mrd", "Nr"),
    *("Prof", "sog", "vgl", "zzgl"),
    *("Dra", "ej", "núm", "pág", "págs", "Sra", "Srta", "Ud", "Uds"),
)
"""German and Spanish abbreviations. None is an English word, which could end a sentence."""
_NOT_ABBREVIATED: Final = "".join(
    [rf"(?<!\b{re.escape(one)}\.)" for one in ("e.g", "i.e", "etc", "cf", "vs", "No", "Dr")]
    + [rf"(?<!\b(?i:{one})\.)" for one in _ABBREVIATIONS]
)
_MONTHS: Final = "Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"
SENTENCE_END: Final = re.compile(
    rf"(?<=[.!?])(?<!\b[A-Za-z]\.){_NOT_ABBREVIATED}(?!(?<=\d\.)\s+(?:{_MONTHS})\b)[\"'”’)\]“»«›‹]*+\s++"
    rf"(?=[\"'“‘(\[„‚»«›‹¿¡]*+[^\W\d_{_LOWER}])|[。！？]++[\"'”’」』）)]*+"
)
PARAGRAPH: Final = re.compile(r"\n[^\S\n]*\n\s*")
_SIGN: Final = r"(?:[-*+•–]|\d{1,3}[.)])"
_MARK: Final = rf"[^\S\n]*{_SIGN}[^\S\n]"
ITEM: Final = re.compile(_MARK)
"""Bullet or number of a list item."""
_ITEM: Final = re.compile(rf"\n(?={_MARK})")
_SIGN_ALONE: Final = re.compile(_SIGN)


def split_sentences(text: str) -> list[Place]:
    """Spans of sentences, without surrounding whitespace. A sentence also ends where a list item begins or a
    paragraph ends. The bullet or number of a list item is part of the item's first sentence."""
    borders = {0, len(text)}
    for pattern in (SENTENCE_END, PARAGRAPH, _ITEM):
        borders.update(match.end() for match in pattern.finditer(text))
    spans: list[Place] = []
    for start, end in pairwise(sorted(borders)):
        part = text[start:end]
        if stripped := part.strip():
            start += len(part) - len(part.lstrip())
            end = start + len(stripped)
            if spans and _SIGN_ALONE.fullmatch(text, *spans[-1]):
                start, _ = spans.pop()
            spans.append((start, end))
    return spans
