"""Document builder: readers write down what they find, block by block."""

from __future__ import annotations

import re
from pathlib import PurePath

from edgeslm.knowledge.documents.passages import DEEPEST, LONGEST_TITLE, Document, Heading

_SPACE = re.compile(r"\s+")


class DocumentBuilder:
    """Text that grows, with its headings. Blocks are parted by one empty line."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0
        self._above: list[Heading] = []
        """The headings that the text is under now."""
        self._next: Heading | None = None

    def heading(self, level: int, title: str) -> None:
        """A title on a line of its own; an empty one is none, an endless one is a paragraph."""
        level = min(level, DEEPEST)
        title = _SPACE.sub(" ", title).strip()
        if len(title) > LONGEST_TITLE:
            self.paragraph(title)
        elif title:
            start = self._begin_block()
            self._write(title)
            self._add(Heading(level, title, start, self._length))

    def section(self, level: int, title: str) -> None:
        """What is written next has a title that stands nowhere in the text."""
        self._next = Heading(min(level, DEEPEST), " ".join(title.split())[:LONGEST_TITLE], 0)

    def leave(self, level: int) -> None:
        """What is written next belongs to the section above those of ``level`` and deeper ones."""
        above = [heading for heading in self._above if heading.level < min(level, DEEPEST)]
        if above and above != self._above:
            self._next = above[-1]

    def paragraph(self, text: str) -> None:
        """Running text: its space, line ends too, is worth one blank."""
        self.lines(_SPACE.sub(" ", text).strip())

    def lines(self, text: str) -> None:
        """Text whose lines stay: samples, lists, tables. Empty text is none."""
        text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
        if not text:
            return
        start = self._begin_block()
        if self._next:
            self._add(Heading(self._next.level, self._next.title, start, start))
        self._write(text)

    def document(self, source: str, title: str) -> Document:
        """:param title: of the whole; "" for one that has none but its file's name."""
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
