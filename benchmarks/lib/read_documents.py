"""Debian's documents as a collection reads them, and the places of answers in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path

from benchmarks.lib.grounded_questions import Span
from benchmarks.lib.manual_pages import PAGE, html_of
from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.readers.reader import read_document

_WORD = re.compile(r"\w+")
_TAG = re.compile(r"<[^>]*>")
_MACRO = re.compile(r"^[.'].*$|\\f(?:\[\w*\]|\(..|.)|\\&", re.MULTILINE)
_ESCAPED = re.compile(r"\\h'[^']*'|\\c|\\\*?\(..|\\[-e(|]|\\\[\w+\]")


def find_answer(document: Document, source: str, answer: Span) -> Span:
    """An answer's place in the document as it is read: of plain text the same, of a man page or web page
    where its words are, markup aside.

    :raises ValueError: they are nowhere, with what was looked for.
    """
    if document.text == source:
        return answer
    plain = _web_text if source.lstrip().startswith("<") else _plain
    wanted = _words(plain(source[answer.start : answer.end]))
    words = list(_WORD.finditer(document.text))
    found = [word[0].casefold() for word in words]
    size = len(wanted)
    # The nearest, as some sentences stand there twice.
    near = answer.start / len(source) * len(words)
    places = [at for at in range(len(found) - size + 1) if found[at : at + size] == wanted]
    if places and size:
        at = min(places, key=lambda place: abs(place - near))
        return Span(document.source, words[at].start(), words[at + size - 1].end())
    raise ValueError(f"{document.source} has nowhere: {' '.join(wanted)}")


def _web_text(html: str) -> str:
    return unescape(_TAG.sub(" ", html))


def _plain(roff: str) -> str:
    return _ESCAPED.sub(lambda m: "-" if m[0] == "\\-" else " ", _MACRO.sub("", roff))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def read_documents(texts: Mapping[str, str], folder: Path) -> dict[str, Document]:
    """As the product reads them, by the names that questions have for them."""
    read: dict[str, Document] = {}
    for name, text in texts.items():
        is_page = PAGE.fullmatch(Path(name).suffix) or text.startswith(('.\\"', "'\\\""))
        is_web = is_page or text.lstrip().startswith("<")
        file = folder / (name if name.endswith(".html") else f"{name}.{'html' if is_web else 'txt'}")
        file.write_bytes(html_of(text.encode()) if is_page else text.encode())
        read[name] = read_document(file, name)
    return read
