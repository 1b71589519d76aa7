"""A document in the making: readers write down what they find, paragraph by paragraph."""

from __future__ import annotations

import re

from edgeslm.knowledge.passages import Document, Heading

_SPACE = re.compile(r"\s+")


class Draft:
    """Text that grows, with its headings. Blocks are parted by one empty line."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0

    def heading(self, level: int, title: str) -> None:
        """A title on a line of its own; an empty one is none."""
        title = _SPACE.sub(" ", title).strip()
        if title:
            start = self._begin_block()
            self._write(title)
            self.headings.append(Heading(level, title, start, self._length))

    def paragraph(self, text: str) -> None:
        """Running text: its space, line ends too, is worth one blank."""
        self.lines(_SPACE.sub(" ", text).strip())

    def lines(self, text: str) -> None:
        """Text whose lines stay: samples, tables. Empty text is none."""
        text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
        if text.strip():
            self._begin_block()
            self._write(text)

    def document(self, source: str, title: str) -> Document:
        return Document(source, title, "".join(self._parts), tuple(self.headings))

    def _begin_block(self) -> int:
        if self._length:
            self._write("\n\n")
        return self._length

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
