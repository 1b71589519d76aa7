"""Slide reader (PPTX): each slide is a section with title, text, tables and speaker notes."""

from __future__ import annotations

from typing import BinaryIO

from edgeslm.knowledge.documents.passages import Document, check_length
from edgeslm.knowledge.readers.document_builder import DocumentBuilder
from edgeslm.knowledge.readers.office import Attributes, Handler, Package, open_package

_TITLES = frozenset({"title", "ctrTitle"})
_LEFT_OUT = frozenset({"sldNum", "dt", "ftr", "hdr", "sldImg"})
"""Types of placeholders that are left out: slide number, date, footer, header and slide image."""


def read_pptx(file: BinaryIO, source: str) -> Document:
    """Reads slides in the order in which they are shown.

    :raises KnowledgeError: the file is damaged, encrypted, or over a limit.
    """
    builder = DocumentBuilder()
    characters = 0
    with open_package(file, source, "presentation") as package:
        part = package.main_part("ppt/presentation.xml")
        order = _SlideOrder()
        package.read(part, order)
        relations = package.relations(part)
        for number, identifier in enumerate(order.slides, 1):
            if identifier not in relations:
                continue
            slide = relations[identifier][1]
            shown = _shapes(package, slide)
            notes = [target for kind, target in package.relations(slide).values() if kind == "notesSlide"]
            noted = [_shapes(package, target) for target in notes[:1]]
            characters += shown.characters + sum(one.characters for one in noted)
            check_length(source, characters)
            if shown.title:
                builder.heading(1, shown.title)
            else:
                builder.section(1, f"slide {number}")
            builder.lines("\n".join(shown.lines))
            for one in noted:
                builder.lines("\n".join(one.lines))
        title = package.title()
    return builder.document(source, title)


def _shapes(package: Package, part: str) -> _Shapes:
    shapes = _Shapes()
    package.read(part, shapes)
    return shapes


class _SlideOrder(Handler):
    def __init__(self) -> None:
        self.slides: list[str] = []

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "sldId":
            # Both the slide's number and the relation are called id; the relation's is the last.
            self.slides += [attributes["id"]] if "id" in attributes else []


class _Shapes(Handler):
    """Paragraphs of a slide or of its notes; each table row becomes a line."""

    def __init__(self) -> None:
        self._title: list[str] = []
        self.lines: list[str] = []
        self.characters = 0
        self._place = ""
        """Placeholder type of the current shape; "" if none."""
        self._text: list[str] = []
        self._is_text = False
        self._cells: list[list[str]] | None = None
        self._skipped = 0

    @property
    def title(self) -> str:
        return " ".join(self._title)

    def start(self, name: str, attributes: Attributes) -> None:
        if self._skipped or name == "Fallback":
            self._skipped += 1
        elif name == "sp":
            self._place = ""
        elif name == "ph":
            self._place = attributes.get("type", "")
        elif name == "t":
            self._is_text = True
        elif name in ("br", "tab"):
            self._text.append(" ")
        elif name == "tr":
            self._cells = []
        elif name == "tc" and self._cells is not None:
            self._cells.append([])

    def end(self, name: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif name == "t":
            self._is_text = False
        elif name == "p":
            self._end_paragraph()
        elif name == "tr" and self._cells is not None:
            self.lines.append(" | ".join(" ".join(cell) for cell in self._cells if cell))
            self._cells = None

    def data(self, text: str) -> None:
        if self._is_text and not self._skipped:
            self.characters += len(text)
            self._text.append(text)

    def _end_paragraph(self) -> None:
        text, self._text = " ".join("".join(self._text).split()), []
        if not text or self._place in _LEFT_OUT:
            return
        if self._cells:
            self._cells[-1].append(text)
        elif self._place in _TITLES:
            self._title.append(text)
        else:
            self.lines.append(text)
