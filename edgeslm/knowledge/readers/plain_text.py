"""Plain text and reStructuredText readers: find headings that are underlined, numbered or set apart at the
margin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from edgeslm.knowledge.documents.passages import CONTENTS, LONGEST_TITLE, Document, Heading

_TITLE_LINES = 4
_DEEPEST = 9
"""Level of the heading of a table of contents, so deep that the heading doesn't end the section around it."""
_NEXT_NUMBERS = 5
"""Maximum difference between the numbers of consecutive headings; above 1, since a few sections may be
missing."""

_RULE = re.compile(r"([=\-~^\"'`#*+.:_<>])\1{2,499}+")
"""Underline of a title, in characters common in reStructuredText."""
_SECTION_WORDS = (
    "Chapter|Appendix|Section|Part|Annex"
    "|Kapitel|Anhang|Abschnitt|Teil|Anlage"
    "|Capítulo|Apéndice|Sección|Parte|Anexo"
    "|Chapitre|Annexe|Partie|Capitolo|Appendice|Sezione|Allegato|Apêndice|Seção|Secção"
    "|Hoofdstuk|Bijlage|Deel|Bilaga|Avsnitt|Bilag|Vedlegg"
)
"""Words before a section number, in the languages of ``FUNCTION_WORDS``."""
_NUMBERED = re.compile(
    rf"(?P<word>(?:{_SECTION_WORDS})\s+)?(?P<number>[1-9]\d?|[A-Z](?![^\W_]))"
    r"(?P<rest>(?:\.\d{1,3})*)(?P<mark>[.:)]?)\s+(?=\S)"
)
_LIST_MARK = re.compile(r"[-*+•·|>$#%]|\(?\w[.)] ")


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    start: int
    end: int
    """End of the line, including its line break."""

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip())


def read_plain_text(text: str, source: str) -> Document:
    """Finds headings; the text stays unchanged."""
    lines = list(_lines(text))
    headings = [*_underlined(lines)]
    taken = {heading.start for heading in headings}
    headings += (heading for heading in _set_apart(lines) if heading.start not in taken)
    headings.sort(key=lambda heading: heading.start)
    return Document(source, _title(lines, headings, source), text, tuple(headings))


def read_restructured_text(text: str, source: str) -> Document:
    """Finds underlined headings; the text stays unchanged."""
    lines = list(_lines(text))
    headings = tuple(_underlined(lines))
    return Document(source, _title(lines, headings[:1], source), text, headings)


def _lines(text: str) -> Iterator[_Line]:
    start = 0
    for line in text.split("\n"):
        end = min(start + len(line) + 1, len(text))
        yield _Line(line.replace("\f", " ").rstrip(), start, end)
        start = end


def _title(lines: list[_Line], headings: list[Heading] | tuple[Heading, ...], source: str) -> str:
    """The first line if it can be a title, otherwise the first heading or the file's name."""
    first = next(
        (line for line in lines if line.text.strip() and not _RULE.fullmatch(line.text.strip())), None
    )
    if headings and (first is None or headings[0].start <= first.start):
        return headings[0].title
    if first and len(first.text.strip()) <= 80 and not first.text.rstrip().endswith((".", ",", ";", ":")):
        return first.text.strip()
    return headings[0].title if headings else PurePath(source).name


def _underlined(lines: list[_Line]) -> Iterator[Heading]:
    """Titles with an underline, and possibly an overline, as in docutils.

    The style of the first underline stands for level 1, the next new style for level 2, and so on.
    """
    kinds: list[tuple[str, bool]] = []
    blank = _Line("", 0, 0)
    for number, (line, rule) in enumerate(pairwise(lines)):
        title, above = line.text.strip(), lines[number - 1] if number else blank
        if not title or line.text[0] == "\t" or not _RULE.fullmatch(rule.text) or _RULE.fullmatch(title):
            continue
        over = above.text == rule.text and bool(above.text)
        if (above.text.strip() and not over) or (line.indent and not over):
            continue
        if (
            len(rule.text) < min(len(title), 4)
            or len(rule.text) < 0.6 * len(title)
            or len(title) > LONGEST_TITLE
        ):
            continue
        kind = (rule.text[0], over)
        if kind not in kinds:
            kinds.append(kind)
        yield Heading(kinds.index(kind) + 1, title, above.start if over else line.start, rule.end)


def _set_apart(lines: list[_Line]) -> Iterator[Heading]:
    """Headings at the left margin between empty lines. They have consecutive section numbers; if most lines
    of the text are indented, a heading may also be unnumbered."""
    written = [line for line in lines if line.text.strip()]
    indented = sum(line.indent > 0 for line in written) > 0.6 * len(written)
    outline = _Outline()
    number = 0
    while number < len(lines):
        count = _title_lines(lines, number)
        block = lines[number : number + count]
        number += max(count, 1)
        if not count:
            continue
        title = " ".join(line.text.strip() for line in block)
        body = next((line for line in lines[number : number + 4] if line.text.strip()), None)
        if CONTENTS.fullmatch(title):
            level: int | None = _DEEPEST
        else:
            level = outline.level(title, indented or (body is not None and body.indent > 0))
        if level is None and indented and count == 1 and body and _is_plain_title(title):
            begins = body.indent or outline.would_begin(body.text) or CONTENTS.fullmatch(body.text)
            level = 1 if begins else None
        if level is not None and body is not None:
            yield Heading(level, title, block[0].start, block[-1].end)


def _title_lines(lines: list[_Line], first: int) -> int:
    """Number of lines up to the next empty line, if they can be a title; otherwise 0."""
    if first and lines[first - 1].text.strip():
        return 0
    count = length = 0
    for line in lines[first : first + _TITLE_LINES + 1]:
        if not line.text.strip():
            break
        count += 1
        length += len(line.text)
        if line.indent or (_LIST_MARK.match(line.text) and not _NUMBERED.match(line.text)):
            return 0
    return count if 0 < count <= _TITLE_LINES and length <= LONGEST_TITLE else 0


def _is_plain_title(title: str) -> bool:
    return len(title) <= 80 and title[0].isalpha() and title[-1] not in ".,;:" and "  " not in title


class _Outline:
    """Remembers the last section number, to tell section titles from numbered lists."""

    def __init__(self) -> None:
        self._at: list[int] = []

    def level(self, title: str, sure: bool) -> int | None:
        """Level of a title whose number continues the outline; None for other lines.

        :param sure: whether the layout shows a title; if not, a single number may belong to a list.
        """
        found = _NUMBERED.match(title)
        number = self._number(title)
        if found is None or number is None or title[-1] in ",;:":
            return None
        if not found["word"] and ((len(number) == 1 and not sure) or not self._continues(number)):
            return None
        self._at = number
        return len(number)

    def would_begin(self, line: str) -> bool:
        """Whether a line has the number of a chapter's first section, such as 2.1. The line before it may be
        an unnumbered chapter title."""
        number = self._number(line)
        return number is not None and number[-1] == 1

    def _number(self, title: str) -> list[int] | None:
        found = _NUMBERED.match(title)
        if found is None or (
            found["number"].isalpha() and not (found["word"] or found["rest"] or found["mark"])
        ):
            return None
        first = found["number"]
        return [int(first) if first.isdigit() else ord(first), *map(int, found["rest"].split(".")[1:])]

    def _continues(self, number: list[int]) -> bool:
        *above, last = number
        if above != self._at[: len(above)]:  # the chapter's title may have no number
            return last == 1 and self._continues(above)
        before = self._at[len(above)] if len(self._at) > len(above) else 0
        return last == ord("A") or 0 < last - before <= _NEXT_NUMBERS
