"""What it costs to read a document grows with its size and not with the square of it, whatever it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import pytest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.readers.document_builder import DocumentBuilder
from edgeslm.knowledge.readers.docx import read_docx
from edgeslm.knowledge.readers.markdown import read_markdown
from edgeslm.knowledge.readers.pdf import _build, _Entry
from edgeslm.knowledge.readers.plain_text import read_plain_text, read_restructured_text
from edgeslm.knowledge.readers.pptx import read_pptx
from edgeslm.knowledge.readers.reader import check_document
from edgeslm.knowledge.readers.tables import read_json, read_json_lines, read_table
from edgeslm.knowledge.readers.web_page import read_web_page
from edgeslm.knowledge.readers.xlsx import read_xlsx
from tests.support.knowledge.office_files import docx_of, pptx_of, xlsx_of

ENOUGH_S = 0.03
"""Of processor time, below which a comparison says nothing."""
FIRST, MOST = 20_000, 320_000
"""Characters."""
TRIES = 5
GROWTH = 2.5
"""Of the work at twice the size."""
STEPS = 2
"""Sizes at which the work may jump: a processor cache is full, or an unclosed tag becomes text."""


def read_pages(text: str, source: str) -> Document:
    """Lines of a PDF; form feeds part its pages, and ``>`` begins an entry of the outline, to the first."""
    pages = [page.split("\n") for page in text.split("\f")]
    outline = [_Entry(1, line[1:], 0) for page in pages for line in page if line.startswith(">")]
    return _build(pages, outline).document(source, source)


def write_deep(text: str, source: str) -> Document:
    """A heading a character, each below the one before it."""
    builder = DocumentBuilder()
    for level in range(1, len(text) + 1):
        builder.heading(level, "a")
        builder.leave(level + 1)
    builder.paragraph("b")
    return builder.document(source, source)


def read_office(name: str, make: Callable[[str], bytes]) -> Callable[[str, str], Document]:
    readers = {".docx": read_docx, ".xlsx": read_xlsx, ".pptx": read_pptx}
    return lambda text, source: readers[name[-5:]](BytesIO(make(text)), source)


Read = Callable[[str, str], Document]
SHAPES: dict[str, tuple[Read, Callable[[int], str]]] = {
    "front title, blanks": (read_markdown, lambda n: f"---\ntitle: a{' ' * n}b\n---\nx"),
    "front title, nothing": (read_markdown, lambda n: f"---\ntitle:{' ' * n}\n---\nx"),
    "front titles": (read_markdown, lambda n: "---\n" + "title:\n" * (n // 7) + "---\nx"),
    "front matter, open": (read_markdown, lambda n: "---\n" + "--- x\n" * (n // 6)),
    "front title, long": (
        read_markdown,
        lambda n: f"---\ntitle: {'a ' * (n // 4)}\n---\n" + "# A\n\nword\n\n" * (n // 22),
    ),
    "fence, backticks": (read_markdown, lambda n: "`" * n + "a`"),
    "fence, tildes": (read_markdown, lambda n: "~" * (n // 2) + "\n" + ("~" * 100 + "\n") * (n // 202)),
    "hashes": (read_markdown, lambda n: ("# " + "# " * 95 + "x\n") * (n // 193)),
    "tags": (read_markdown, lambda n: ("<h1>" + "</h1" * 38 + "\n") * (n // 195)),
    "brackets": (read_markdown, lambda n: ("# " + "[" * 190 + "\n") * (n // 193)),
    "stars": (read_markdown, lambda n: ("# " + "*a" * 95 + "\n") * (n // 193)),
    "links in links": (read_markdown, lambda n: f"# {'[' * 30}a{'](b)' * 30}\n" * (n // 154)),
    "one word": (read_plain_text, lambda n: "a" * n),
    "words": (read_plain_text, lambda n: "word " * (n // 5)),
    "blanks": (read_plain_text, lambda n: " " * n + "x"),
    "line ends": (read_plain_text, lambda n: "x" + "\n" * n + "y"),
    "carriage returns": (read_restructured_text, lambda n: "\r" * n + "x"),
    "tabs": (read_plain_text, lambda n: "x\t" * (n // 2)),
    "roman numbers": (read_plain_text, lambda n: f"a\nb\n{'i' * n}\nc\n"),
    "numbers of sections": (read_plain_text, lambda n: f"a\nb\n{'1.' * (n // 2)}x\nc\n"),
    "a list of contents": (
        read_plain_text,
        lambda n: "Table of Contents\n=================\n\n" + "1.1" * (n // 3),
    ),
    "chapters": (read_plain_text, lambda n: "a\nb\n" + "chapter " * (n // 8) + "x\nc"),
    "dots": (read_plain_text, lambda n: "a\nb\n" + ". " * (n // 2) + "x\nc"),
    "sentences": (read_plain_text, lambda n: "A b. " * (n // 5)),
    "quotes": (read_plain_text, lambda n: "a." + "\"'" * (n // 2) + " b"),
    "clauses": (read_plain_text, lambda n: "a: b; " * (n // 6)),
    "drawn lines": (read_plain_text, lambda n: "-_" * (n // 2)),
    "items": (read_plain_text, lambda n: "\n- a" * (n // 4)),
    "underlined": (read_restructured_text, lambda n: "a\n===\n" * (n // 6)),
    "numbered": (
        read_plain_text,
        lambda n: "".join(f"{number % 99 + 1}. T\n\n   b\n\n" for number in range(n // 14)),
    ),
    "markup that begins": (read_web_page, lambda n: "<" * n),
    "declarations": (read_web_page, lambda n: "<!" * (n // 2)),
    "comments": (read_web_page, lambda n: "<!--" * (n // 4)),
    "conditions": (read_web_page, lambda n: "<![" * (n // 3)),
    "pictures": (read_web_page, lambda n: "data:" * (n // 5)),
    "lists in lists": (read_web_page, lambda n: "<ul>" * (n // 9) + "x" + "</ul>" * (n // 9)),
    "tables in tables": (read_web_page, lambda n: "<table><tr><td>" * (n // 15)),
    "a script": (read_web_page, lambda n: "<script>" + "</s" * (n // 3)),
    "attributes": (read_web_page, lambda n: "<a " + "b=c " * (n // 4) + ">x"),
    "terms": (read_web_page, lambda n: "<dl>" + "<dt>" * (n // 8) + "<b>x" * (n // 8)),
    "headings": (read_web_page, lambda n: "<h1>a<h2>b<h3>c" * (n // 15)),
    "page's title": (
        read_web_page,
        lambda n: f"<title>{'a ' * (n // 4)}</title>" + "<h1>a</h1><p>word</p>" * (n // 40),
    ),
    "quoted cell": (read_table, lambda n: 'a,"' + "b\n" * (n // 2)),
    "rows": (read_table, lambda n: "a,b\n" * (n // 4)),
    "empty rows": (read_table, lambda n: "a,b\n" + "\n" * n),
    "columns": (read_json_lines, lambda n: "".join(f'{{"a{at}": 1}}\n' for at in range(n // 12))),
    "lists of nothing": (read_json, lambda n: "[" + "[]," * (n // 3) + "[]]"),
    "open lists": (read_json, lambda n: "[" * n),
    "parted words": (read_pages, lambda n: "a" * n),
    "an outline of one page": (read_pages, lambda n: "\n".join(f">{at}" for at in range(n // 7))),
    "an outline and pages": (read_pages, lambda n: ">a\n" * (n // 6) + "\fa" * (n // 4)),
    "paragraphs": (read_office("a.docx", docx_of), lambda n: "<d>" + "<p><t>a</t></p>" * (n // 16) + "</d>"),
    "a cell of paragraphs": (
        read_office("a.docx", docx_of),
        lambda n: "<d><tbl><tr><tc>" + "<p><t>a</t></p>" * (n // 16) + "</tc></tr></tbl></d>",
    ),
    "pieces of a text": (
        read_office("a.docx", docx_of),
        lambda n: "<d><p>" + "<t>a</t><br/>" * (n // 13) + "</p></d>",
    ),
    "cells": (
        read_office("a.xlsx", xlsx_of),
        lambda n: "<d>" + "<row><c><v>1</v></c><c r='Z9'><v>2</v></c></row>" * (n // 48) + "</d>",
    ),
    "titles": (
        read_office("a.pptx", pptx_of),
        lambda n: "<d><sp><ph type='title'/>" + "<p><t>a</t></p>" * (n // 16) + "</sp></d>",
    ),
    "headings, each deeper": (write_deep, lambda n: "a" * (n // 20)),
}


def work(read: Read, text: str) -> float:
    """Seconds of processor time."""
    started = time.process_time()
    with suppress(KnowledgeError):
        document = check_document(read(text, "source"))
        # What is kept of each passage beside its text.
        sum(len(document.title) + len("".join(passage.heading)) for passage in split(document))
    return time.process_time() - started


@pytest.mark.parametrize("name", SHAPES)
def test_reading_takes_no_more_than_its_share_of_a_document_twice_as_large(name: str) -> None:
    read, shape = SHAPES[name]
    size = FIRST
    while (once := work(read, shape(size))) < ENOUGH_S and size < MOST:
        size *= 2
    twice = work(read, shape(2 * size))
    for _ in range(TRIES - 1):
        if twice <= GROWTH * max(once, ENOUGH_S):
            break
        once, twice = min(once, work(read, shape(size))), min(twice, work(read, shape(2 * size)))
    for _ in range(STEPS):
        if twice <= GROWTH * max(once, ENOUGH_S):
            break
        size, once = 2 * size, twice
        twice = min(work(read, shape(2 * size)) for _ in range(TRIES))
    assert twice <= GROWTH * max(once, ENOUGH_S), f"{size:,} characters: {once:.3f} s, twice: {twice:.3f} s"


def test_a_passage_has_a_bounded_number_of_titles() -> None:
    document = write_deep("a" * 1000, "source")
    assert max(len(passage.heading) for passage in split(document)) <= 20
