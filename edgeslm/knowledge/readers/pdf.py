"""PDF reader on PDFium: sections come from the outline; without an outline, each page is a section.

Running headers and footers are removed, and words hyphenated at line ends are joined. Scanned pages have no
text; OCR is left to other programs.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import DEEPEST, Document, check_length
from edgeslm.knowledge.readers.document_builder import DocumentBuilder

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfTextPage

log = logging.getLogger("edgeslm.knowledge")

MAX_PAGES = 10_000
_JOINED_AT, _SOFT_HYPHEN = "\ufffe", "\xad"
_BEYOND = 1e7
"""Coordinate outside of any page, in points."""
_EDGE_LINES = 2
_REPEATED = 0.4
"""A line counts as a running header or footer if at least this share of the pages has the line at the top or
bottom, ignoring digits."""
_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b")
_LABEL = re.compile(r"(?:(?:chapter|appendix|part|section)\s+)?[\dA-Z]{1,3}(?:\.\d{1,3})*\.?", re.IGNORECASE)
"""A section number on its own line."""
_CAPITALS = "CHAPTER"
"""Placeholder for a line in capitals when the lines of several pages are compared. A running header in
capitals is often the chapter's title, so different titles must count as the same line."""
_PARTED = re.compile(r"(?<!\w)(\w++)-\n(\w+)")
_WORD = re.compile(r"\w+(?:-\w+)*")
_TITLE_LINES = 3
_MOST_TITLES = 100
"""Maximum number of section titles that are searched for in the text of a page. Any further outline entry of
the page becomes a section without a title line."""
_LONGEST_NUMBER = 12
"""Maximum number of letters and digits before a title, as in ``Chapter 12`` or ``3.1.12``."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An outline entry; ``page`` counts from 0."""

    level: int
    title: str
    page: int


class OnPage(Protocol):
    """Callback for progress, with the current page number and the number of pages."""

    def __call__(self, page: int, pages: int, /) -> None: ...


def read_pdf(file: BinaryIO, source: str, *, on_page: OnPage | None = None) -> Document:
    """The title comes from the file's metadata.

    :raises KnowledgeError: the file is damaged or encrypted, has too many pages, or has no text.
    """
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

    logging.getLogger("pypdfium2").setLevel(logging.CRITICAL)  # warnings about readable files
    try:
        with pypdfium2.PdfDocument(file) as pdf:  # raises for a file without pages
            pages = [_lines(text) for text in _texts(pdf, source, on_page)]
            outline = list(_outline(pdf))
            title = ""
            with suppress(UnicodeDecodeError):  # half a character
                title = " ".join(pdf.get_metadata_value("Title").split())
    except pypdfium2.PdfiumError as error:
        if error.err_code == FPDF_ERR_PASSWORD:
            raise KnowledgeError(f"{source} is locked with a password; save a copy without one.") from None
        if error.err_code == FPDF_ERR_SECURITY:
            raise KnowledgeError(f"{source} is encrypted; save a copy that isn't.") from None
        raise KnowledgeError(f"{source} can't be read as a PDF; it may be damaged.") from None
    if not any(line.strip() for lines in pages for line in lines):
        raise KnowledgeError(f"{source} has no text in it; if its pages are pictures, it needs OCR first.")
    builder = _build(_without_repeated(pages), outline)
    return builder.document(source, title)


def _texts(pdf: PdfDocument, source: str, on_page: OnPage | None) -> Iterator[str]:
    from pypdfium2 import PdfiumError

    if len(pdf) > MAX_PAGES:
        raise KnowledgeError(f"{source} has more than {MAX_PAGES:,} pages; part it into several files.")
    characters, failed = 0, 0
    for number in range(len(pdf)):
        if on_page is not None:
            on_page(number + 1, len(pdf))
        try:
            with closing(pdf[number]) as page, closing(page.get_textpage()) as shown:
                text = _text(shown)
        except PdfiumError:  # the other pages may be fine
            text, failed = "", failed + 1
        characters += len(text)
        check_length(source, characters)
        yield text
    if failed:
        log.warning("%s: %d of %d pages can't be read and are left out", source, failed, len(pdf))


def _text(shown: PdfTextPage) -> str:
    try:
        return str(shown.get_text_range())
    except RecursionError:  # recurses for each unmapped glyph at the start of the page
        return str(shown.get_text_bounded(-_BEYOND, -_BEYOND, _BEYOND, _BEYOND))


def _lines(text: str) -> list[str]:
    """Lines of a page. PDFium joins words that are hyphenated at line ends; these words are split again."""
    text = text.replace("\r\n", "\n").replace(_JOINED_AT, "-\n").replace(_SOFT_HYPHEN, "")
    return [line.rstrip() for line in text.split("\n")]


def _outline(pdf: PdfDocument) -> Iterator[_Entry]:
    for entry in pdf.get_toc(max_depth=DEEPEST):
        place = entry.get_dest()
        page = place.get_index() if place is not None else None
        with suppress(UnicodeDecodeError):
            if page is not None and (title := " ".join(entry.get_title().split())):
                yield _Entry(entry.level + 1, title, page)


def _without_repeated(pages: list[list[str]]) -> list[list[str]]:
    """Removes running headers, footers and page numbers."""

    def edges(lines: list[str]) -> set[int]:
        written = [number for number, line in enumerate(lines) if line.strip()]
        return {*written[:_EDGE_LINES], *written[-_EDGE_LINES:]}

    def bare(line: str) -> str:
        return _CAPITALS if line.isupper() else _DIGITS.sub("#", line.strip())

    if len(pages) < 4:
        return pages
    seen = Counter(text for lines in pages for text in {bare(lines[number]) for number in edges(lines)})
    repeated = {text for text, count in seen.items() if count >= _REPEATED * len(pages)}
    return [
        [line for number, line in enumerate(lines) if number not in at_edge or bare(line) not in repeated]
        for lines in pages
        for at_edge in [edges(lines)]
    ]


def _build(pages: list[list[str]], outline: list[_Entry]) -> DocumentBuilder:
    builder = DocumentBuilder()
    entries = defaultdict[int, list[_Entry]](list)
    for entry in outline:
        entries[entry.page].append(entry)
    words = {word for lines in pages for line in lines for word in _WORD.findall(line)}

    def whole(lines: list[str]) -> str:
        return _PARTED.sub(lambda found: _join_hyphenated(found, words), "\n".join(lines))

    for number, lines in enumerate(pages):
        begun = 0
        for looked_for, entry in enumerate(entries[number]):
            place = _find_title(lines, begun, entry.title) if looked_for < _MOST_TITLES else None
            if place is None:
                builder.section(entry.level, entry.title)
                continue
            builder.lines(whole(lines[begun : place[0]]))
            begun = place[1]
            builder.heading(entry.level, whole(lines[place[0] : begun]))
        if not outline:
            builder.section(1, f"page {number + 1}")
        builder.lines(whole(lines[begun:]))
    return builder


def _find_title(lines: list[str], begun: int, title: str) -> tuple[int, int] | None:
    """Index of a title's first line, and of the line after the title; None if the title isn't found. A
    section number before the title is part of the title."""
    wanted = _letters(title)
    for after in range(begun + 1, len(lines) + 1):
        for first in range(after - 1, max(begun, after - _TITLE_LINES) - 1, -1):
            found = _letters("".join(lines[first:after]))
            if wanted and found.endswith(wanted) and len(found) <= len(wanted) + _LONGEST_NUMBER:
                above = lines[first - 1].strip() if first > begun and not found[0].isdigit() else ""
                return (first - 1 if _LABEL.fullmatch(above) else first), after
    return None


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _join_hyphenated(found: re.Match[str], words: set[str]) -> str:
    """Joins a hyphenated word. The hyphen is kept before a capital or digit. The hyphen is also kept if the
    word occurs elsewhere with a hyphen but nowhere without a hyphen."""
    whole, hyphened = found[1] + found[2], f"{found[1]}-{found[2]}"
    keeps = (hyphened in words and whole not in words) or not found[2][0].islower()
    return hyphened if keeps else whole
