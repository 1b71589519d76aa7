"""Man pages as plain text: sections, and each described option a section of its own, so that it is found.

Pages of man(7), DocBook's and Perl's included, and of mdoc(7); tables of tbl(1) become lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.readers.document_builder import Draft
from edgeslm.knowledge.readers.mdoc import LONGEST_TAG, TAG_LEVEL, write_mdoc
from edgeslm.knowledge.readers.roff import Line, Page

_FONTS = frozenset({"B", "I", "SM", "SB", "BI", "BR", "IB", "IR", "RB", "RI", "R", "MR"})
_APART = frozenset({"B", "I", "SM", "SB", "R"})
"""Of which the arguments stay parted by blanks; the others change fonts within a word."""
_PARAGRAPHS = frozenset({"PP", "P", "LP", "HP"})
_BULLET = re.compile(r"[•*o·–—+□-]|\(?[0-9a-zA-Z]{1,2}[.)]|\[[0-9]+\]")
_BOLD = re.compile(r"\s*(?:\\&)?\\f(?:B|\[B\]|\(CW|\(CB|\[CB\]|3)")
_OPTION = re.compile(r"[-+]{1,2}[\w?]")
_LONGEST_PARAGRAPH = 65_536
_TAB = re.compile(r"tab\s*\(\s*(.)\s*\)")


def read_man_page(text: str, source: str) -> Document:
    """The title is as people write it: ``crontab(5)``."""
    page = Page(text)
    draft = Draft()
    title = PurePath(source).name
    writer = _Man(page, draft)
    for line in page:
        if line.name == "TH":
            title = _title(page, line.arguments) or title
        elif line.name == "Dd":
            title = write_mdoc(page, draft) or title
        else:
            writer.write(line)
    writer.end()
    return draft.document(source, title)


def _title(page: Page, arguments: list[str]) -> str:
    name, section = ([page.plain(word) for word in arguments] + ["", ""])[:2]
    name = name.lower() if name.isupper() else name
    return f"{name}({section})" if name and section else name


class _Man:
    """Follows man(7): macros begin and end paragraphs, text fills them."""

    def __init__(self, page: Page, draft: Draft) -> None:
        self._page = page
        self._draft = draft
        self._text = ""
        self._raw = ""
        """How the paragraph began, fonts included: bold is what is to be typed."""
        self._glued = False
        self._sample: list[str] | None = None
        """Lines that are not filled."""
        self._awaits = ""
        """The macro of which the next line of text is the argument."""
        self._tags: list[str] = []
        self._typed = False
        self._mark = ""
        self._sections: list[bool] = []
        """Of each open ``.RS``: whether it holds the text of a tag."""

    def write(self, line: Line) -> None:
        name = line.name
        if not name:
            self._add(line.rest)
        elif name in _FONTS:
            self._add_fonts(name, line)
        elif name in ("SH", "SS"):
            self._begin_section(name, line)
        elif name in _PARAGRAPHS:
            self._end_item()
            self._draft.leave(TAG_LEVEL + len(self._sections))
        elif name in ("TP", "TQ"):
            self._end_paragraph()
            self._awaits = name
        elif name == "IP":
            self._end_paragraph()
            if line.arguments:
                self._begin_item(line.arguments[0])
        elif name in ("RS", "RE"):
            self._indent(name)
        elif name in ("nf", "EX", "Vb"):
            self._end_item()
            self._sample = []
        elif name in ("fi", "EE", "Ve"):
            self._end_paragraph()
        elif name in ("sp", "Sp"):
            self._add("")
        elif name == "br" and self._text:
            self._text += "\n"
        elif name == "TS":
            self._end_item()
            self._draft.lines("\n".join(_table(self._page)))
        else:
            self._other(line)

    def _other(self, line: Line) -> None:
        arguments = line.arguments
        if line.name == "SY":
            self._end_paragraph()
            self._add(" ".join(arguments))
        elif line.name == "OP":
            self._add(f"[{' '.join(arguments)}]")
        elif line.name in ("UR", "MT") and arguments:
            self._add(arguments[0])
        elif line.name == "EQ":
            for skipped in self._page:
                if skipped.name == "EN":
                    break

    def _add(self, raw: str) -> None:
        text = self._page.plain(raw)
        if self._awaits and raw:
            self._await(raw)
        elif self._sample is not None:
            self._sample.append(text)
        elif not text.strip():
            if not raw.strip():
                self._end_paragraph()
        else:
            if len(self._text) > _LONGEST_PARAGRAPH:
                self._end_paragraph()
            if not self._text:
                self._end_tags()
            elif raw[0] == " ":
                self._text += "\n"
            blank = "" if self._glued or not self._text or self._text.endswith("\n") else " "
            self._raw = self._raw or raw
            self._text += blank + text
            self._glued = raw.endswith("\\c")

    def _add_fonts(self, name: str, line: Line) -> None:
        words = line.arguments
        if name == "MR" and len(words) > 1:
            words[:2] = [f"{words[0]}({words[1]})"]
        text = (" " if name in _APART else "").join(words)
        if text:
            self._add((r"\fB" if name[0] == "B" or name == "SB" else "") + text)
        elif not self._awaits:
            self._awaits = name

    def _await(self, raw: str) -> None:
        name, self._awaits = self._awaits, ""
        if name in ("SH", "SS"):
            self._draft.heading(1 if name == "SH" else 2, self._page.plain(raw))
        elif name in ("TP", "TQ"):
            self._begin_item(raw, again=name == "TQ")
        else:
            self._add((r"\fB" if name[0] == "B" else "") + raw)

    def _begin_section(self, name: str, line: Line) -> None:
        self._end_item()
        self._sections = []
        self._awaits = name
        if line.rest.strip():
            self._await(" ".join(line.arguments))

    def _begin_item(self, raw: str, *, again: bool = False) -> None:
        """:param again: another tag of the same item."""
        tag = " ".join(self._page.plain(raw).split())
        if _BULLET.fullmatch(tag):
            self._mark = f"  {tag if tag[0].isalnum() or len(tag) > 1 else '*'} "
        elif tag:
            if not again:
                self._end_tags()
            self._tags.append(tag)
            self._typed |= is_typed(tag, bold=_BOLD.match(raw) is not None)

    def _end_tags(self) -> None:
        """Text begins: the tags before it are complete."""
        tags, self._tags = ", ".join(self._tags), []
        typed, self._typed = self._typed, False
        if tags:
            self._draft.leave(TAG_LEVEL + len(self._sections))
            if typed and len(tags) <= LONGEST_TAG:
                self._draft.heading(TAG_LEVEL + len(self._sections), tags)
            else:
                self._draft.paragraph(tags)

    def _indent(self, name: str) -> None:
        """Indented text; DocBook writes a paragraph of a tag before it."""
        if name == "RE":
            self._end_item()
            if self._sections and self._sections.pop():
                self._draft.leave(TAG_LEVEL + len(self._sections))
            return
        tag = "" if self._mark or self._sample is not None else self._text
        holds = "\n" not in tag and is_typed(tag, bold=_BOLD.match(self._raw) is not None)
        if holds:
            self._text = self._raw = ""
            self._draft.heading(TAG_LEVEL + len(self._sections), tag)
        self._end_item()
        self._sections.append(holds)

    def _end_item(self) -> None:
        self._end_paragraph()
        self._end_tags()

    def _end_paragraph(self) -> None:
        if self._sample is not None:
            self._draft.lines("\n".join(f"    {line}" for line in self._sample).rstrip())
            self._sample = None
        elif self._text:
            text = "\n".join(" ".join(line.split()) for line in self._text.split("\n"))
            self._draft.lines((self._mark or "  " * text.startswith("•")) + text)
            self._mark = ""
        self._text = self._raw = self._awaits = ""
        self._glued = False

    def end(self) -> None:
        self._end_item()


def is_typed(tag: str, *, bold: bool) -> bool:
    """Whether a tag is what somebody types, an option or a keyword: then it is looked for."""
    return (bold or bool(_OPTION.match(tag))) and 0 < len(tag) <= LONGEST_TAG and tag[-1] not in ".:"


def _table(page: Page) -> Iterator[str]:
    """The rows of a table of tbl(1), up to its end."""
    separator, in_format = "\t", True
    row: list[str] = []
    cell: list[str] | None = None
    """Lines of a cell that is written over several, between ``T{`` and ``T}``."""
    for line in page:
        text = page.plain(" ".join(line.arguments) if line.name in _FONTS else line.rest)
        if line.name == "TE":
            return
        if line.name == "T&":
            in_format = True
        elif line.name and line.name not in _FONTS:
            continue
        elif in_format:
            if text.rstrip().endswith(";") and (found := _TAB.search(text)):
                separator = found[1]
            in_format = not text.rstrip().endswith(".")
        elif cell is not None and not text.startswith("T}"):
            cell.append(text.strip())
        else:
            if cell is not None:
                row.append(" ".join(cell))
                text = text[2:].removeprefix(separator)
            *parts, last = text.split(separator)
            cell = [] if last.strip() == "T{" else None
            row += parts if cell is not None else [*parts, last]
            if cell is None:
                if written := [part.strip() for part in row if part.strip("_=\\^ ")]:
                    yield " | ".join(written)
                row = []
