"""Documents as values, and the passages they are split into. Knows no file, no format and no index."""

from __future__ import annotations

from dataclasses import dataclass

WORDS = 150
"""Most words of a passage, unless told: with its headings it stays below the 256 tokens that MiniLM reads."""


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


def split(document: Document, *, words: int = WORDS) -> list[Passage]:
    """Passages in the document's order, none of more than about ``words`` words; they don't overlap.

    Between them is nothing but space, headings that have passages of their own, and lists of contents.
    """
    raise NotImplementedError
