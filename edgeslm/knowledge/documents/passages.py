"""Document passages: data classes for documents and passages, and a function that splits documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, zip_longest
from typing import TYPE_CHECKING

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.sentences import SENTENCE_END

if TYPE_CHECKING:
    from edgeslm.knowledge.documents.cells import Table

WORDS = 150
"""Default maximum number of words in a passage; a passage of this length, with headings, stays below MiniLM's
limit of 256 tokens."""
MAX_CHARACTERS = 16 << 20
"""Maximum length of a document in characters, about 10,000 pages."""
LONGEST_TITLE = 200
"""Maximum length of a title in characters; a longer line counts as text."""

DEEPEST = 20
"""Maximum heading level, limited since each passage stores the titles above it; deeper headings get this
level."""
MAX_HEADINGS = 200_000


@dataclass(frozen=True, slots=True)
class Heading:
    """The heading of a section. ``level`` 1 is the topmost."""

    level: int
    title: str
    start: int
    """Offset in ``Document.text`` of the section, which begins with the heading's line."""
    body: int = 0
    """Offset of the text below the title. If the title is not in ``Document.text``, ``body`` is 0 or equal to
    ``start``, and the section's text begins at ``start``."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file or message as plain text. All offsets count characters of ``text``."""

    source: str
    """Name under which the document is cited: the path within the added folder, the file's name, or a
    message's topic and name."""
    title: str
    text: str
    """Full text: unchanged for plain text, Markdown and reStructuredText, extracted for other formats."""
    headings: tuple[Heading, ...] = ()
    """Ordered by ``start``."""
    table: Table | None = None
    """The table from which ``text`` was generated; answers are computed from this table."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document, with ``document.text[start:end] == text``."""

    number: int
    """Position among the document's passages, from 0."""
    heading: tuple[str, ...]
    """Titles of the sections that contain the passage, the topmost first."""
    text: str
    start: int
    end: int


def check_headings(source: str, count: int) -> None:
    """:raises KnowledgeError: ``count`` exceeds :data:`MAX_HEADINGS`."""
    if count > MAX_HEADINGS:
        raise KnowledgeError(
            f"{source} has more than {MAX_HEADINGS:,} sections or rows; part it into several files."
        )


def check_length(source: str, characters: int) -> None:
    """:raises KnowledgeError: ``characters`` exceeds :data:`MAX_CHARACTERS`."""
    if characters > MAX_CHARACTERS:
        raise KnowledgeError(f"{source} has more than {MAX_CHARACTERS >> 20} MiB of text; part it.")


# Costs of splitting a text at a place. Each additional passage costs about 1.
_LABEL = 0.5
"""Cost of splitting after a line that introduces the next block: a line with a colon, or a short label
(``Note``)."""
_INDENTED = 0.5
"""Extra cost of splitting before a block that is indented more than its section, such as a list or a code
sample."""
_ITEM = 0.3
_SENTENCE = 1.0
_ROW = 0.6
"""Cost of splitting after a rule (``-----``), as between the rows of a plain-text table."""
_SHORT_LINE = 1.2
"""Cost of splitting after a short line, which its author broke although the next word would have fitted."""
_LAST_LINE = 0.3
"""Cost of splitting after a short line that ends a sentence, and therefore probably a paragraph."""
_FENCED = 1.5
_LINE = 3.0
_CLAUSE = 4.0
_WORD = 6.0
_CHARACTER = 9.0

_MOST_ATOMS = 40
_AT_ONCE = 1000
"""Limits of the search for the best split. A passage has at most ``_MOST_ATOMS`` atoms (:class:`_Atom`). The
search covers ``_AT_ONCE`` atoms at a time, about 20,000 words."""
_SHORTEST = 40
"""Minimum number of characters between two places where a block may be split."""
_FAR = 10_000
"""A number of characters that is larger than the indentation of any line."""

_PIECES_PER_WORD = 1.33
"""Average number of tokens per English word, including punctuation."""
_PIECE = re.compile(r"[^\W\d_]{1,6}|\d{1,3}|([^\w\s]|_)\1{0,99}+")
"""Pattern for counting tokens approximately: in a text after :func:`squeeze`, the pattern rarely has fewer
matches than the text has tokens."""
_RUN = re.compile(r"([^\w\s]|_)\1{3,}+")

_BLOCK = re.compile(r"\S[^\n]{0,65535}+(?:\n[^\S\n]*+\S[^\n]{0,65535}+){0,999}+")
"""A block: lines up to the next empty line. Very long lines and blocks are split, to limit memory."""
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
"""Dot leader and page number in a table of contents."""
_TAIL = 80
"""Number of characters at a line's end that are searched for a dot leader."""
_LONGEST_ENTRY = 3 * LONGEST_TITLE
"""Maximum length of an entry in a table of contents, in characters, including number and dot leader."""
_PAGE = re.compile(r"\s\d{1,4}$")
_JUMP = re.compile(r"\s*(?:[-*+]|\d+\.)\s+\[[^\]]*\]\(#[^)]*\)\s*")
"""A Markdown list item that consists only of a link to a place in the same page."""
CONTENTS = re.compile(
    r"table of contents|list of (?:tables|figures|examples|equations|illustrations)"
    r"|(?:inhalts|tabellen|abbildungs|beispiel)verzeichnis"
    r"|(?:tabla|índice) de contenidos?|índice general"
    r"|(?:lista|índice) de (?:tablas|figuras|ejemplos|ecuaciones)"
    r"|table des matières|(?:liste|table) des (?:tableaux|figures|illustrations)|sommario|inhoudsopgave",
    re.IGNORECASE,
)
"""Titles of tables of contents and similar lists."""


def split(document: Document, *, words: int = WORDS) -> list[Passage]:
    """Splits a document into passages in order, without overlaps, each with at most about ``words`` words.

    No passage crosses a heading. Only whitespace, headings and tables of contents are left out.
    """
    passages: list[Passage] = []
    titles = {_normalized(heading.title) for heading in document.headings}
    for path, start, end in _sections(document):
        announced = bool(path) and CONTENTS.fullmatch(path[-1].strip()) is not None
        for first, last in _regions(document.text, start, end, titles, announced):
            for place in _passage_spans(document.text, first, last, words * _PIECES_PER_WORD):
                passages.append(Passage(len(passages), path, document.text[slice(*place)], *place))
    return passages


def squeeze(text: str) -> str:
    """Compacts a text for an encoder: a run of whitespace becomes one blank, a rule (``-----``) one
    character.

    Passage lengths are limited by the number of tokens in the compacted text, since the whitespace and rules
    of a plain-text table would be many tokens.
    """
    return _RUN.sub(r"\1", _SPACE.sub(" ", text)).strip()


def _sections(document: Document) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Yields the titles above each section's body, and the body's start and end. In an empty section, the
    heading counts as body."""
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
    """Yields start and end of each part of a text that is not a table of contents.

    :param announced: whether the section's title announces a table of contents.
    """
    for block in _BLOCK.finditer(text, start, end):
        if _is_contents(block[0], titles, announced):
            yield start, block.start()
            start = block.end()
        else:
            announced = False
    yield start, end


def _normalized(title: str) -> str:
    """A title without its number, case and extra whitespace, for comparison."""
    return _SPACE.sub(" ", _NUMBER.sub("", title.strip(), count=1)).strip(" .").casefold()


def _is_contents(block: str, titles: set[str], announced: bool) -> bool:
    """Whether a block is a table of contents.

    :param announced: whether the section's title announces one, which makes the check more lenient.
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
        if entries and len(entries[-1]) < LONGEST_TITLE and not _NUMBER.match(line):  # continues a title
            entries.append(f"{entries.pop()} {line}")
        else:
            entries.append(line)
    return any(
        len(kind) >= 3 and sum(_is_title(entry, titles) for entry in kind) >= 0.7 * len(kind)
        for kind in (lines, entries)
    )


def _is_title(entry: str, titles: set[str]) -> bool:
    """Whether an entry is the title of a section, possibly followed by a page number."""
    if len(entry) <= _LONGEST_ENTRY and _normalized(entry) in titles:
        return True
    return _normalized(_PAGE.sub("", entry[-LONGEST_TITLE:])) in titles


@dataclass(frozen=True, slots=True)
class _Atom:
    """A part of a text that is not split further."""

    start: int
    end: int
    pieces: int
    cost: float
    """Cost of splitting the text before this atom."""


def _passage_spans(text: str, start: int, end: int, most: float) -> Iterator[tuple[int, int]]:
    """Starts and ends of passages with at most ``most`` tokens each."""
    atoms = _atoms(text, start, end, most)
    while some := list(islice(atoms, _AT_ONCE)):
        yield from _cheapest(some, most)


def _cheapest(atoms: list[_Atom], most: float) -> Iterator[tuple[int, int]]:
    """Groups atoms into passages at the lowest total cost, by dynamic programming from the end.

    A passage costs 1 plus the square of its fill level, which favours few passages of equal size. The cost of
    splitting after the passage is added to the passage's cost.
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
        yield from _block_atoms(text, {first: cost, **_borders(text, first, last)}, last, most)
        fenced ^= len(_FENCE.findall(text, first, last)) % 2 == 1
        before = block[0].rstrip()


def _cost_between(before: str, block: str) -> float:
    """Cost of splitting between two blocks, ignoring their indentation."""
    if not before or before[-1] in ".!?。！？":
        return 0.0
    if before[-1] == ":":
        return _LABEL
    if block[0].islower():  # the sentence continues, on the next page
        return _SENTENCE
    return _LABEL if len(before) <= 100 and "\n" not in before else 0.0


def _borders(text: str, start: int, end: int) -> dict[int, float]:
    """For each offset at which a block may be split, the cost of splitting the block there."""
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


def _block_atoms(text: str, borders: dict[int, float], end: int, most: float) -> Iterator[_Atom]:
    """Splits a block into atoms. Parts with more than ``most`` tokens are split further."""
    for start, after in pairwise([*sorted(borders), end]):
        pieces = _count(text, start, after)
        if pieces > most:
            yield from _split_further(text, start, after, most, borders[start])
        elif pieces or text[start:after].strip():
            yield _Atom(*_stripped(text, start, after), pieces, borders[start])


def _split_further(text: str, start: int, end: int, most: float, cost: float) -> Iterator[_Atom]:
    for pattern, next_cost in ((_CLAUSE_END, _CLAUSE), (_SPACE, _WORD)):
        ends = {match.end() for match in pattern.finditer(text, start, end)} - {start, end}
        if ends:
            borders = {start: cost, **dict.fromkeys(ends, next_cost)}
            yield from _block_atoms(text, borders, end, most)
            return
    step = max(1, int(most) // 4)  # each token has at least one character
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
