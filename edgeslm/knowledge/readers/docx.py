"""Word reader (DOCX): paragraphs, headings by style, lists and tables.

Headers, footers, footnotes, comments and deleted text are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from edgeslm.knowledge.documents.passages import Document, check_length
from edgeslm.knowledge.readers.document_builder import DocumentBuilder
from edgeslm.knowledge.readers.office import Attributes, Handler, open_package

_MOST_BASES = 20
"""Maximum number of styles in a chain in which each style is based on the next style."""
_NO_LEVEL = 9
"""Outline level of running text; Word counts levels from 0."""
_SKIPPED = frozenset({"Fallback", "del", "moveFrom"})
"""Elements that are skipped, since ``Fallback`` repeats content for old programs, and the other elements
contain deleted or moved text."""


def read_docx(file: BinaryIO, source: str) -> Document:
    """The title comes from the file's properties, or from a paragraph with the style Title.

    :raises KnowledgeError: the file is damaged, encrypted, or over a limit.
    """
    with open_package(file, source, "Word document") as package:
        part = package.main_part("word/document.xml")
        kinds = dict(package.relations(part).values())
        styles = _Styles()
        package.read(kinds.get("styles", "word/styles.xml"), styles)
        body = _Body(styles, source)
        package.read(part, body)
        body.end_lines()
        title = package.title() or body.title
    return body.builder.document(source, title)


class _Styles(Handler):
    """Collects the styles of headings, titles and list items. The style of a heading has an outline level, or
    a name such as ``heading 1``, which is English in all languages of Word."""

    def __init__(self) -> None:
        self._levels: dict[str, int] = {}
        self._bases: dict[str, str] = {}
        self._titles: set[str] = set()
        self._items: set[str] = set()
        self._style = ""

    def start(self, name: str, attributes: Attributes) -> None:
        value = attributes.get("val", "")
        if name == "style":
            self._style = attributes.get("styleId", "")
        elif name == "basedOn":
            self._bases[self._style] = value
        elif name == "outlineLvl" and value.isdecimal():
            self._levels[self._style] = int(value)
        elif name == "numPr":
            self._items.add(self._style)
        elif name == "name" and value.casefold() == "title":
            self._titles.add(self._style)
        elif name == "name" and value.casefold().startswith("heading ") and value[8:].isdecimal():
            self._levels.setdefault(self._style, int(value[8:]) - 1)

    def level(self, style: str) -> int:
        return next((self._levels[one] for one in self._based(style) if one in self._levels), _NO_LEVEL)

    def is_item(self, style: str) -> bool:
        return any(one in self._items for one in self._based(style))

    def _based(self, style: str) -> Iterator[str]:
        """Yields the style, then the styles that it is based on."""
        for _ in range(_MOST_BASES):
            yield style
            style = self._bases.get(style, "")

    def is_title(self, style: str) -> bool:
        return style in self._titles


class _Paragraph:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.style = ""
        self.level: int | None = None
        self.is_item = False


class _Body(Handler):
    """Writes each paragraph when it ends: to the current table cell, or to the document."""

    def __init__(self, styles: _Styles, source: str) -> None:
        self.builder = DocumentBuilder()
        self.title = ""
        self._styles = styles
        self._source = source
        self._open: list[_Paragraph] = []
        """Open paragraphs: several if a paragraph contains a text box."""
        self._is_text = False
        self._skipped = 0
        self._tables = 0
        self._cells: list[list[str]] = []
        """Cells of the current row of the outermost table."""
        self._lines: list[str] = []
        """Lines of the current list or table."""
        self._characters = 0

    def start(self, name: str, attributes: Attributes) -> None:
        if self._skipped or name in _SKIPPED:
            self._skipped += 1
        elif name == "p":
            self._open.append(_Paragraph())
        elif name == "tbl":
            self._tables += 1
            if self._tables == 1:
                self.end_lines()
        elif name == "tr" and self._tables == 1:
            self._cells = []
        elif name == "tc" and self._tables == 1:
            self._cells.append([])
        elif self._open:
            self._in_paragraph(name, attributes)

    def _in_paragraph(self, name: str, attributes: Attributes) -> None:
        paragraph, value = self._open[-1], attributes.get("val", "")
        match name:
            case "t":
                self._is_text = True
            case "br" | "cr":
                paragraph.text.append("\n")
            case "tab":
                paragraph.text.append(" ")
            case "noBreakHyphen":
                paragraph.text.append("-")
            case "pStyle":
                paragraph.style = value
            case "outlineLvl" if value.isdecimal():
                paragraph.level = int(value)
            case "numPr":
                paragraph.is_item = True

    def end(self, name: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif name == "t":
            self._is_text = False
        elif name == "p" and self._open:
            self._write(self._open.pop())
        elif name == "tr" and self._tables == 1:
            if any(self._cells):
                self._lines.append(" | ".join(" ".join(cell) for cell in self._cells if cell))
        elif name == "tbl":
            self._tables -= 1
            if not self._tables:
                self.end_lines()

    def data(self, text: str) -> None:
        if self._is_text and self._open and not self._skipped:
            self._characters += len(text)
            check_length(self._source, self._characters)
            self._open[-1].text.append(text)

    def end_lines(self) -> None:
        """Writes the current list or table to the document."""
        lines, self._lines = self._lines, []
        self.builder.lines("\n".join(lines))

    def _write(self, paragraph: _Paragraph) -> None:
        text = "\n".join(" ".join(line.split()) for line in "".join(paragraph.text).split("\n")).strip("\n")
        level = self._styles.level(paragraph.style) if paragraph.level is None else paragraph.level
        if not text:
            return
        if self._tables:
            if self._cells:
                self._cells[-1].append(" ".join(text.split()))
        elif level < _NO_LEVEL:
            self.end_lines()
            self.builder.heading(level + 1, text)
        elif paragraph.is_item or self._styles.is_item(paragraph.style):
            self._lines.append(f"* {' '.join(text.split())}")
        else:
            self.end_lines()
            self.builder.lines(text)
            if self._styles.is_title(paragraph.style):
                self.title = self.title or " ".join(text.split())
