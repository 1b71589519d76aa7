"""File kinds: the supported document formats, by file suffix."""

from __future__ import annotations

from enum import Enum
from pathlib import Path


class Kind(Enum):
    """A supported file format; its value is shown to users."""

    TEXT = "plain text"
    MARKDOWN = "Markdown"
    RESTRUCTURED_TEXT = "reStructuredText"
    WEB_PAGE = "HTML"
    PDF = "PDF"
    DOCX = "DOCX"
    XLSX = "XLSX"
    PPTX = "PPTX"
    CSV = "CSV"
    JSON_LINES = "JSON lines"
    JSON = "JSON"


TABULAR = frozenset({Kind.CSV, Kind.JSON_LINES, Kind.JSON, Kind.XLSX})
"""Formats with rows, from which answers can be computed."""

OFFICE = frozenset({Kind.DOCX, Kind.XLSX, Kind.PPTX})
"""Formats based on ZIP files, which contain compressed text and possibly large pictures."""

CELLS = "; "
"""Separator of cells in a row's text, as in ``column: value; column: value``."""

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
    ".docx": Kind.DOCX,
    ".docm": Kind.DOCX,
    ".xlsx": Kind.XLSX,
    ".xlsm": Kind.XLSX,
    ".pptx": Kind.PPTX,
    ".pptm": Kind.PPTX,
    ".csv": Kind.CSV,
    ".tsv": Kind.CSV,
    ".jsonl": Kind.JSON_LINES,
    ".ndjson": Kind.JSON_LINES,
    ".json": Kind.JSON,
}
COMPRESSED = ".gz"


def find_kind(path: Path) -> Kind | None:
    """Format of a file by its name, with or without ``.gz``; None if unsupported."""
    return SUFFIXES.get(plain_suffix(path))


def plain_suffix(path: Path) -> str:
    """Suffix of a file name in lower case, ignoring ``.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == COMPRESSED else suffix
