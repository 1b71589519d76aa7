"""Document builder: collects text blocks and headings from a reader."""

from __future__ import annotations

import re
from pathlib import PurePath

from edgeslm.knowledge.documents.passages import DEEPEST, LONGEST_TITLE, Document, Heading

_SPACE = re.compile(r"\s+")


class DocumentBuilder:
    """Builds a document from text and headings. An empty line separates blocks."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0
        self._above: list[Heading] = []
        """Headings of the sections that contain the current position."""
        self._next: Heading | None = None

    def heading(self, level: int, title: str) -> None:
        """Adds a title on its own line. An empty title is ignored, a very long title becomes a paragraph."""
        level = min(level, DEEPEST)
        title = _SPACE.sub(" ", title).strip()
        if len(title) > LONGEST_TITLE:
            self.paragraph(title)
        elif title:
            start = self._begin_block()
            self._write(title)
            self._add(Heading(level, title, start, self._length))

    def section(self, level: int, title: str) -> None:
        """Starts a section whose title is not in the text."""
        self._next = Heading(min(level, DEEPEST), " ".join(title.split())[:LONGEST_TITLE], 0)

    def leave(self, level: int) -> None:
        """Ends sections of ``level`` and deeper, so that the next text belongs to the section above them."""
        above = [heading for heading in self._above if heading.level < min(level, DEEPEST)]
        if above and above != self._above:
            self._next = above[-1]

    def paragraph(self, text: str) -> None:
        """Adds running text; each run of whitespace becomes one blank."""
        self.lines(_SPACE.sub(" ", text).strip())

    def lines(self, text: str) -> None:
        """Adds text and keeps its line breaks, as for code samples, lists and tables. Empty text is
        ignored."""
        text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
        if not text:
            return
        start = self._begin_block()
        if self._next:
            self._add(Heading(self._next.level, self._next.title, start, start))
        self._write(text)

    def document(self, source: str, title: str) -> Document:
        """:param title: title of the document; if empty, the file's name is used."""
        parts, headings = "".join(self._parts), tuple(self.headings)
        return Document(source, title or PurePath(source).name, parts, headings)

    def _add(self, heading: Heading) -> None:
        self._above = [other for other in self._above if other.level < heading.level] + [heading]
        self._next = None
        self.headings.append(heading)

    def _begin_block(self) -> int:
        if self._length:
            self._write("\n\n")
        return self._length

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
