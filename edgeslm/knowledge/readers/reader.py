"""File reader: converts a file of any supported format to a document."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import stat
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from edgeslm.config.extras import missing_extra
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.cells import Table
from edgeslm.knowledge.documents.kinds import COMPRESSED, OFFICE, SUFFIXES, Kind, find_kind
from edgeslm.knowledge.documents.passages import LONGEST_TITLE, MAX_CHARACTERS, Document, check_headings
from edgeslm.knowledge.readers.docx import read_docx
from edgeslm.knowledge.readers.markdown import read_markdown
from edgeslm.knowledge.readers.pdf import OnPage, read_pdf
from edgeslm.knowledge.readers.plain_text import read_plain_text, read_restructured_text
from edgeslm.knowledge.readers.pptx import read_pptx
from edgeslm.knowledge.readers.tables import read_json, read_json_lines, read_table
from edgeslm.knowledge.readers.web_page import read_web_page
from edgeslm.knowledge.readers.xlsx import read_xlsx

MAX_BYTES = MAX_CHARACTERS
"""Maximum size of a text file after decompression."""
MAX_PACKED_BYTES = 64 << 20
"""Maximum decompressed size of a PDF or Office file with the suffix ``.gz``. PDF and Office files without
``.gz`` are read from disk."""
MAX_FILE_BYTES = 4 << 30
_FROM_DISK = OFFICE | {Kind.PDF}

_TEXT_READERS = {
    Kind.TEXT: read_plain_text,
    Kind.MARKDOWN: read_markdown,
    Kind.RESTRUCTURED_TEXT: read_restructured_text,
    Kind.WEB_PAGE: read_web_page,
    Kind.CSV: read_table,
    Kind.JSON_LINES: read_json_lines,
    Kind.JSON: read_json,
}
_OFFICE_READERS = {
    Kind.DOCX: read_docx,
    Kind.XLSX: read_xlsx,
    Kind.PPTX: read_pptx,
}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like UTF-16's, so first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"charset=[\"']?([\w-]{3,20})|coding:[ \t]*([\w-]{3,20})", re.IGNORECASE)
"""Pattern for a declaration of the text encoding, in the notation of HTML or Emacs."""
_DECLARED_WITHIN = 2048
_OLD_ENCODING = "cp1252"
"""Assumed encoding of old files that don't declare one; a superset of ISO 8859-1."""
_NOT_ASCII = re.compile("[\x80-\U0010ffff]+")
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""Control characters that texts don't contain. ESC is allowed, since some texts use it for colours."""
_UNSTORABLE = str.maketrans(dict.fromkeys([0, *range(0xD800, 0xE000)], "\ufffd"))
"""Characters that UTF-8 or the index rejects, each replaced by one character, so that offsets stay valid."""


def read_document(path: Path, source: str, *, on_page: OnPage | None = None) -> Document:
    """Reads a file as plain text with headings.

    :param source: name under which the document is cited.
    :param on_page: called before each page of a PDF.
    :raises KnowledgeError: the file is missing, unsupported, damaged, encrypted, too large, or without text.
        The error message is one sentence that names ``source``.
    """
    kind = find_kind(path)
    try:
        if not path.exists():
            raise KnowledgeError(f"{source} is not there.")
        if not path.is_file():
            raise KnowledgeError(f"{source} is not a file.")
        if kind is None:
            known = ", ".join(SUFFIXES)
            raise KnowledgeError(
                f"{source} has an unsupported type; supported are {known}, each also as .gz."
            )
        with path.open("rb") as file:
            packed = path.suffix.lower() == COMPRESSED
            if kind in _FROM_DISK:
                whole = _unpacked(file, source, MAX_PACKED_BYTES) if packed else file
                if kind is Kind.PDF:
                    document = read_pdf(whole, source, on_page=on_page)
                else:
                    document = _OFFICE_READERS[kind](whole, source)
            else:
                content = _unpacked(file, source, MAX_BYTES) if packed else _limited(file, source, MAX_BYTES)
                document = _TEXT_READERS[kind](_decoded(content.getvalue(), source), source)
    except OSError as error:
        raise KnowledgeError(f"{source} can't be read: {error.strerror or error}.") from None
    except ModuleNotFoundError as error:
        sentence = missing_extra(error, f"Reading {source}")
        if sentence is None:
            raise
        raise KnowledgeError(f"{sentence}.") from None
    return check_document(document)


def check_size(path: Path, status: os.stat_result) -> None:
    """Checks a file's size before it is read, since a sparse file may claim terabytes.

    :raises KnowledgeError: the path is not a regular file, or the file is too large.
    """
    if stat.S_ISDIR(status.st_mode) or find_kind(path) is None:
        return  # read_document reports these
    if not stat.S_ISREG(status.st_mode):
        raise KnowledgeError(f"{path} is not a file.")
    most = MAX_BYTES
    if find_kind(path) in _FROM_DISK:
        most = MAX_PACKED_BYTES if path.suffix.lower() == COMPRESSED else MAX_FILE_BYTES
    if status.st_size > most:
        raise _too_large(str(path), most)


def check_document(document: Document) -> Document:
    """Replaces characters that can't be stored.

    :raises KnowledgeError: the document has no text, or too much text, or too many headings.
    """
    if not document.text.strip():
        raise KnowledgeError(f"{document.source} has no text in it.")
    if len(document.text) > MAX_CHARACTERS:
        raise _too_large(document.source, MAX_CHARACTERS)
    check_headings(document.source, len(document.headings))
    # The title is stored with each passage, so its length is limited.
    text, title = (
        text.translate(_UNSTORABLE) for text in (document.text, document.title.strip()[:LONGEST_TITLE])
    )
    headings = tuple(
        heading
        if heading.title.isprintable()
        else replace(heading, title=heading.title.translate(_UNSTORABLE))
        for heading in document.headings
    )
    # The text contains all cells and column names.
    table = document.table if text == document.text else _storable(document.table)
    return Document(document.source, title, text, headings, table)


def _storable(table: Table | None) -> Table | None:
    if table is None:
        return None
    columns = tuple(replace(column, name=column.name.translate(_UNSTORABLE)) for column in table.columns)
    rows = (
        replace(row, cells=tuple(cell.translate(_UNSTORABLE) for cell in row.cells)) for row in table.rows
    )
    return Table(columns, tuple(rows))


def _too_large(source: str, most: int) -> KnowledgeError:
    return KnowledgeError(f"{source} has more than {most >> 20} MiB; part it into several files.")


def _limited(file: BinaryIO, source: str, most: int) -> BytesIO:
    content = file.read(most + 1)
    if len(content) > most:
        raise _too_large(source, most)
    return BytesIO(content)


def _unpacked(file: BinaryIO, source: str, most: int) -> BytesIO:
    try:
        with gzip.open(file) as packed:
            return _limited(cast(BinaryIO, packed), f"{source}, unpacked,", most)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise KnowledgeError(f"{source} is a damaged .gz file: {error}.") from None


def _decoded(content: bytes, source: str) -> str:
    """:raises KnowledgeError: the content is not text, or its encoding is unknown."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            text = content[len(mark) :].decode(encoding, errors="replace")
            break
    else:
        text = _guessed(content, source)
    if len(_NO_TEXT.findall(text)) * 200 > len(text) or "\0" in text:
        raise KnowledgeError(f"{source} is not a text: it contains control characters.")
    return text


def _guessed(content: bytes, source: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        text = content.decode(errors="replace")
    wrong = text.count("\ufffd")
    if 10 * wrong < sum(len(run) for run in _NOT_ASCII.findall(text)) - wrong:
        return text  # UTF-8 with a few damaged bytes
    declared = _DECLARED.search(content[:_DECLARED_WITHIN])
    for encoding in ((declared[1] or declared[2]).decode() if declared else _OLD_ENCODING, _OLD_ENCODING):
        with suppress(UnicodeDecodeError, LookupError):
            return content.decode(encoding)
    raise KnowledgeError(f"{source} is not UTF-8, and it can't be told what else it is; save it as UTF-8.")
