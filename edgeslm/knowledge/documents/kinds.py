"""The kinds of files that are read, told by their names."""

from __future__ import annotations

from enum import Enum
from pathlib import Path


class Kind(Enum):
    """The values are for people."""

    TEXT = "plain text"
    MARKDOWN = "Markdown"
    RESTRUCTURED_TEXT = "reStructuredText"
    WEB_PAGE = "HTML"
    PDF = "PDF"
    CSV = "CSV"
    JSON_LINES = "JSON lines"
    JSON = "JSON"


TABULAR = frozenset({Kind.CSV, Kind.JSON_LINES, Kind.JSON})
"""What has rows that can be computed with."""

CELLS = "; "
"""Between the cells of a row as it is read: ``column: value; column: value``."""

SUFFIXES = {
    ".txt": Kind.TEXT,
    ".text": Kind.TEXT,
    ".md": Kind.MARKDOWN,
    ".markdown": Kind.MARKDOWN,
    ".rst": Kind.RESTRUCTURED_TEXT,
    ".html": Kind.WEB_PAGE,
    ".htm": Kind.WEB_PAGE,
    ".xhtml": Kind.WEB_PAGE,
    ".pdf": Kind.PDF,
    ".csv": Kind.CSV,
    ".tsv": Kind.CSV,
    ".jsonl": Kind.JSON_LINES,
    ".ndjson": Kind.JSON_LINES,
    ".json": Kind.JSON,
}
COMPRESSED = ".gz"


def find_kind(path: Path) -> Kind | None:
    """By the file's name, that of a compressed file included; None if files of its kind aren't read."""
    return SUFFIXES.get(plain_suffix(path))


def plain_suffix(path: Path) -> str:
    """The suffix in small letters, without ``.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == COMPRESSED else suffix
