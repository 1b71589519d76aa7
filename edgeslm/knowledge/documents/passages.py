"""Documents as values, and the passages they are split into. Knows no file, no format and no index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, zip_longest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.cells import Table
from edgeslm.knowledge.documents.sentences import SENTENCE_END

WORDS = 150
"""Most words of a passage, unless told: with its headings it stays below the 256 tokens that MiniLM reads."""
MAX_CHARACTERS = 16 << 20
"""Of a document, some 10,000 pages: what is larger is better kept as several."""
LONGEST_TITLE = 200
"""Characters; a line that is longer says more than what a section is called."""

DEEPEST = 20
"""The deepest level of a heading: every passage carries the titles above it."""
MAX_HEADINGS = 200_000


@dataclass(frozen=True, slots=True)
class Heading:
    """A section of a document. ``level`` counts from 1, the widest."""

    level: int
    title: str
    start: int
    """Where the section begins in ``Document.text``: at the heading's line."""
    body: int = 0
    """Where the text below its title begins; at or before ``start``: the title has no line of its own."""


@dataclass(frozen=True, slots=True)
class Document:
    """One file as plain text. All offsets are of characters in ``text``."""

    source: str
    """As it is cited: the path in the folder that was added, or the file's name."""
    title: str
    text: str
    """Of plain text and Markdown the file as it stands; of other kinds what a reader took out of it."""
    headings: tuple[Heading, ...] = ()
    """In the order of ``start``."""
    table: Table | None = None
    """What its text was written from, if that is a table: what is asked of it can be computed."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: ``document.text[start:end] == text``."""

    number: int
    """From 0, in the document's order."""
    heading: tuple[str, ...]
    """The titles above it, the widest first."""
    text: str
    start: int
    end: int


def check_headings(source: str, count: int) -> None:
    """:raises KnowledgeError: more than a document may have."""
    if count > MAX_HEADINGS:
        raise KnowledgeError(
            f"{source} has more than {MAX_HEADINGS:,} sections or rows; part it into several files."
        )


def check_length(source: str, characters: int) -> None:
    """:raises KnowledgeError: more than a document may have."""
    if characters > MAX_CHARACTERS:
        raise KnowledgeError(f"{source} has more than {MAX_CHARACTERS >> 20} MiB of text; part it.")


# What it costs to part a text there. A passage more costs about 1.
_LABEL = 0.5
"""After what leads to the next block: a colon, or a line alone that is no sentence (``Note``)."""
_INDENTED = 0.5
"""Before what stands deeper than the rest of its section: a list, a sample, or the next part of it."""
_ITEM = 0.3
_SENTENCE = 1.0
_ROW = 0.6
"""After a line that only draws a line, as tables in plain text have between their rows."""
_SHORT_LINE = 1.2
"""After a line that has room for the next word: somebody wanted it to end."""
_LAST_LINE = 0.3
"""The same where a sentence ends: of a paragraph with no empty line below it."""
_FENCED = 1.5
_LINE = 3.0
_CLAUSE = 4.0
_WORD = 6.0
_CHARACTER = 9.0

_MOST_ATOMS = 40
_AT_ONCE = 1000
"""Bounds of what is weighed for one passage, and for a section of more than some 20,000 words at once."""
_SHORTEST = 40
"""Characters: what is shorter isn't parted from what follows in its block."""
_FAR = 10_000
"""Columns: further right than any text."""

_PIECES_PER_WORD = 1.33
"""What a tokenizer makes of an English word, its share of the punctuation included."""
_PIECE = re.compile(r"[^\W\d_]{1,6}|\d{1,3}|([^\w\s]|_)\1{0,99}+")
"""About what a tokenizer of word pieces makes one of, of a squeezed text: the count is rarely too low."""
_RUN = re.compile(r"([^\w\s]|_)\1{3,}+")

_BLOCK = re.compile(r"\S[^\n]{0,65535}+(?:\n[^\S\n]*+\S[^\n]{0,65535}+){0,999}+")
"""Lines up to an empty one. Of endless ones a part at a time, so that memory is bounded."""
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_ITEM_MARK = r"(?:[-*+•·o–]|\(?(?:\d{1,3}|[A-Za-z])[.)])[^\S\n]+(?=\S)"
_ITEM_START = re.compile(rf"\n(?=[^\S\n]*{_ITEM_MARK})")
_DRAWN = re.compile(r"[\W_]{3,}")
_CLAUSE_END = re.compile(r"(?<=[;,:])\s+")
_SPACE = re.compile(r"\s+")

_NUMBER = re.compile(
    r"(?:(?:chapter|appendix|section|part)\s+)?(?:[\dA-Z]{1,3}(?:\.\d{1,3})*\.?|[ivxIVX]+\.)\s+"
)
_LEADER = re.compile(r"(?:(?:\.\s?){4,}|…{2,})\s*(?:\d+|[ivxlc]+)$")
"""The dots of a list of contents, up to its page number."""
_TAIL = 80
"""Characters of a line's end in which they are looked for."""
_LONGEST_ENTRY = 3 * LONGEST_TITLE
"""Characters of an entry of a list of contents, its number and its leader included."""
_PAGE = re.compile(r"\s\d{1,4}$")
_JUMP = re.compile(r"\s*(?:[-*+]|\d+\.)\s+\[[^\]]*\]\(#[^)]*\)\s*")
"""A Markdown line that only leads to a place on the same page."""
CONTENTS = re.compile(
    r"table of contents|list of (?:tables|figures|examples|equations|illustrations)|inhaltsverzeichnis"
    r"|(?:tabellen|abbildungs)verzeichnis|table des matières|índice de contenidos",
    re.IGNORECASE,
)
"""Titles of lists that say where things are."""


def split(document: Document, *, words: int = WORDS) -> list[Passage]:
    """Passages in the document's order, none of more than about ``words`` words; they don't overlap.

    No passage reaches over a heading. Between passages is nothing but space, the headings that they carry and
    lists of contents.
    """
    passages: list[Passage] = []
    titles = {_bare(heading.title) for heading in document.headings}
    for path, start, end in _sections(document):
        announced = bool(path) and CONTENTS.fullmatch(path[-1].strip()) is not None
        for first, last in _regions(document.text, start, end, titles, announced):
            for place in _parts(document.text, first, last, words * _PIECES_PER_WORD):
                passages.append(Passage(len(passages), path, document.text[slice(*place)], *place))
    return passages


def squeeze(text: str) -> str:
    """A passage as an encoder should read it: space is worth one blank, drawn lines one character.

    Word pieces are counted in this form; as it stands, a table of plain text has many more tokens.
    """
    return _RUN.sub(r"\1", _SPACE.sub(" ", text)).strip()


def _sections(document: Document) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Path, start and end of what stands below each heading; of a heading with nothing below it, its own."""
    text, headings = document.text, document.headings
    yield (), 0, headings[0].start if headings else len(text)
    above: list[Heading] = []
    for heading, after in zip_longest(headings, headings[1:]):
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        end = after.start if after else len(text)
        body = min(max(heading.start, heading.body), end)
        if not text[body:end].strip() and (after is None or after.level <= heading.level):
            body = heading.start
        yield tuple(entry.title for entry in above), body, end


def _regions(text: str, start: int, end: int, titles: set[str], announced: bool) -> Iterator[tuple[int, int]]:
    """What stands between lists of contents.

    :param announced: whether the section is said to begin with one.
    """
    for block in _BLOCK.finditer(text, start, end):
        if _lists_contents(block[0], titles, announced):
            yield start, block.start()
            start = block.end()
        else:
            announced = False
    yield start, end


def _bare(title: str) -> str:
    """By which a title is known again: without its number, its case and the width of its space."""
    return _SPACE.sub(" ", _NUMBER.sub("", title.strip(), count=1)).strip(" .").casefold()


def _lists_contents(block: str, titles: set[str], announced: bool) -> bool:
    """Whether a block only says which sections there are, and where.

    :param announced: its title says so, so that what looks like it is believed.
    """
    lines = [line.strip() for line in block.splitlines()]
    if announced and 2 * sum(bool(_NUMBER.match(line)) or _is_title(line, titles) for line in lines) >= len(
        lines
    ):
        return True
    if len(lines) < 3:
        return False
    if 2 * sum(bool(_LEADER.search(line[-_TAIL:]) or _JUMP.fullmatch(line)) for line in lines) >= len(lines):
        return True
    entries: list[str] = []
    for line in lines:
        if entries and len(entries[-1]) < LONGEST_TITLE and not _NUMBER.match(line):  # a title goes on
            entries.append(f"{entries.pop()} {line}")
        else:
            entries.append(line)
    return any(
        len(kind) >= 3 and sum(_is_title(entry, titles) for entry in kind) >= 0.7 * len(kind)
        for kind in (lines, entries)
    )


def _is_title(entry: str, titles: set[str]) -> bool:
    """Whether an entry names a section, perhaps with its page."""
    if len(entry) <= _LONGEST_ENTRY and _bare(entry) in titles:
        return True
    return _bare(_PAGE.sub("", entry[-LONGEST_TITLE:])) in titles


@dataclass(frozen=True, slots=True)
class _Atom:
    """A part of a text that stays whole."""

    start: int
    end: int
    pieces: int
    cost: float
    """Of parting the text before it."""


def _parts(text: str, start: int, end: int, most: float) -> Iterator[tuple[int, int]]:
    """Starts and ends of the passages there, of at most ``most`` pieces each."""
    atoms = _atoms(text, start, end, most)
    while some := list(islice(atoms, _AT_ONCE)):
        yield from _cheapest(some, most)


def _cheapest(atoms: list[_Atom], most: float) -> Iterator[tuple[int, int]]:
    """The best partition of atoms, found from its end.

    Each passage costs 1 and the square of how full it is, so that there are few of equal size; each border
    costs what it parts.
    """
    sizes = [(atom.pieces / most) for atom in atoms]
    costs = [*(1 + atom.cost for atom in atoms[1:]), 1.0]
    best = [0.0] * (len(atoms) + 1)
    ends = [0] * len(atoms)
    for first in range(len(atoms) - 1, -1, -1):
        size, cheapest = 0.0, float("inf")
        for last in range(first, min(len(atoms), first + _MOST_ATOMS)):
            size += sizes[last]
            if size > 1 and last > first:
                break
            cost = size * size + costs[last] + best[last + 1]
            if cost <= cheapest:
                cheapest, ends[first] = cost, last
        best[first] = cheapest
    first = 0
    while first < len(atoms):
        last = ends[first]
        yield atoms[first].start, atoms[last].end
        first = last + 1


def _atoms(text: str, start: int, end: int, most: float) -> Iterator[_Atom]:
    margin, fenced, before = _FAR, False, ""
    for block in _BLOCK.finditer(text, start, end):
        first, last = block.span()
        line = max(text.rfind("\n", max(0, first - _FAR), first) + 1, first - _FAR, 0)
        indent = len(text[line:first].expandtabs())
        margin = min(margin, indent)
        cost = (
            _FENCED if fenced else _cost_between(before, block[0]) + (_INDENTED if indent > margin else 0.0)
        )
        yield from _between(text, {first: cost, **_borders(text, first, last)}, last, most)
        fenced ^= len(_FENCE.findall(text, first, last)) % 2 == 1
        before = block[0].rstrip()


def _cost_between(before: str, block: str) -> float:
    """Of parting two blocks, whose indents say nothing."""
    if not before or before[-1] in ".!?。！？":
        return 0.0
    if before[-1] == ":":
        return _LABEL
    if block[0].islower():  # a sentence goes on, on the next page
        return _SENTENCE
    return _LABEL if len(before) <= 100 and "\n" not in before else 0.0


def _borders(text: str, start: int, end: int) -> dict[int, float]:
    """Where the inside of a block may be parted, and what that costs."""
    lines = text[start:end].split("\n")
    width = max(map(len, lines))
    borders: dict[int, float] = {}
    place = start
    for line, after in pairwise(lines):
        place += len(line) + 1
        if _DRAWN.fullmatch(line.strip()):
            borders[place] = _ROW
        else:
            short = len(line.rstrip()) + len(after.split(maxsplit=1)[0]) + 8 < width
            ended = _LAST_LINE if line.rstrip().endswith((".", "!", "?")) else _SHORT_LINE
            borders[place] = ended if short and not _DRAWN.fullmatch(after.strip()) else _LINE
    for pattern, cost in ((SENTENCE_END, _SENTENCE), (_ITEM_START, _ITEM)):
        for match in pattern.finditer(text, start, end):
            borders[match.end()] = min(cost, borders.get(match.end(), cost))
    kept, before = {}, start
    for place in sorted(borders):
        if place - before >= _SHORTEST:
            kept[place], before = borders[place], place
    return kept


def _between(text: str, borders: dict[int, float], end: int, most: float) -> Iterator[_Atom]:
    """The atoms of a block; one that is too large alone is parted further."""
    for start, after in pairwise([*sorted(borders), end]):
        pieces = _count(text, start, after)
        if pieces > most:
            yield from _smaller(text, start, after, most, borders[start])
        elif pieces or text[start:after].strip():
            yield _Atom(*_stripped(text, start, after), pieces, borders[start])


def _smaller(text: str, start: int, end: int, most: float, cost: float) -> Iterator[_Atom]:
    for pattern, next_cost in ((_CLAUSE_END, _CLAUSE), (_SPACE, _WORD)):
        ends = {match.end() for match in pattern.finditer(text, start, end)} - {start, end}
        if ends:
            borders = {start: cost, **dict.fromkeys(ends, next_cost)}
            yield from _between(text, borders, end, most)
            return
    step = max(1, int(most) // 4)  # no piece is shorter than a character
    for place in range(start, end, step):
        part = min(end, place + step)
        if text[place:part].strip():
            pieces = _count(text, place, part)
            yield _Atom(*_stripped(text, place, part), pieces, cost if place == start else _CHARACTER)


def _count(text: str, start: int, end: int) -> int:
    return sum(1 for _ in _PIECE.finditer(text, start, end))


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
