"""HTML reader: the readable text of a page, with headings, lists, tables and code samples.

Missing and repeated end tags are tolerated. Scripts, navigation and tables of contents are left out. If a
page marks its main part, only that part is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.readers.document_builder import DocumentBuilder

_LEFT_OUT = frozenset(
    {
        *("script", "style", "nav", "noscript", "template", "svg", "math", "iframe", "object", "canvas"),
        *("button", "select", "textarea", "footer", "audio", "video", "dialog"),
    }
)
_LEFT_OUT_ROLES = frozenset({"navigation", "search", "banner", "contentinfo", "menu"})
_LEFT_OUT_CLASSES = frozenset(
    {
        *("toc", "table-of-contents", "list-of-tables", "list-of-figures", "list-of-examples", "navheader"),
        *("navfooter", "navbar", "breadcrumb", "breadcrumbs", "sphinxsidebar", "headerlink", "skip-link"),
        *("mw-editsection", "noprint"),
    }
)
"""Class names of navigation elements in DocBook, Sphinx, MkDocs and MediaWiki."""
_PAGE_ITSELF = frozenset({"html", "body", "main", "article"})
_VOID = frozenset(
    {
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source"),
        *("track", "wbr"),
    }
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    {
        *("p", "div", "section", "article", "main", "header", "body", "blockquote", "ul", "ol", "dl"),
        *(
            "dt",
            "dd",
            "li",
            "table",
            "tr",
            "caption",
            "figure",
            "figcaption",
            "address",
            "details",
            "summary",
        ),
        *("aside", "form", "fieldset", "pre", "hr", "head", "html", "title", *_HEADINGS),
    }
)
_ENDS_A_ROW = frozenset({"table", "pre", "tr", "dt", *_HEADINGS})
"""Tags whose start in a cell shows that a table is used for layout."""
_TERM_LEVEL = 7
"""Heading level of a term in a definition list, such as an option: below all HTML headings."""
_OPTION = re.compile(r"--?[\w?]")
_TYPED = frozenset({"b", "strong", "code", "tt", "kbd", "samp", "var"})
"""If a term in a definition list begins with one of these tags, the term is a keyword."""
_LAYOUT = frozenset({"head", "foot"})
"""Classes of mandoc(1) tables that only show a manual page's name and section."""
_MAIN = re.compile(r"<main[\s>]", re.IGNORECASE)
_CONDITION = re.compile(r"<!\[(?!CDATA\[)[^>]{0,500}>")
"""Conditional comments of Word and old browsers, which break the parser."""
_EMBEDDED = re.compile(r"data:[\w/+.-]{1,100};base64,[\w+/=]*+")
"""Pattern for a picture that is embedded in the page as a data URI."""
_CHUNK = 65_536
_END_TAG = 20
_MOST_WAITING = 262_144
_MOST_LEFT = 10_000
"""Maximum number of characters that the parser may hold unparsed, during parsing (``_MOST_WAITING``) and at
the end of the page (``_MOST_LEFT``). Parsing time grows with the square of this number."""
_SPACE = re.compile(r"\s+")


def read_web_page(text: str, source: str) -> Document:
    """The title is the page's title or its first heading.

    :raises KnowledgeError: the parser rejects the page.
    """
    text = _EMBEDDED.sub("", _CONDITION.sub("", "".join(_without_comments(text))))
    document = _read(text, source, has_main=_MAIN.search(text) is not None)
    return document if document.text else _read(text, source, has_main=False)


def _read(text: str, source: str, *, has_main: bool) -> Document:
    page = _Page(has_main=has_main)
    try:
        for start in range(0, len(text), _CHUNK):
            page.feed(text[start : start + _CHUNK])
            page.give_up(_MOST_WAITING)
        page.give_up(_MOST_LEFT)
        page.close()
    except AssertionError as error:  # a declaration that the parser refuses
        raise KnowledgeError(f"{source} can't be read as HTML: {error}.") from None
    page.end_lines()
    first = page.builder.headings[0].title if page.builder.headings else ""
    return page.builder.document(source, page.title or first)


def _without_comments(text: str) -> Iterator[str]:
    """Yields the text outside of comments. An unclosed comment extends to the end."""
    end = 0
    while (start := text.find("<!--", end)) >= 0:
        yield text[end:start]
        closed = text.find("-->", start)
        end = closed + 3 if closed >= 0 else len(text)
    yield text[end:]


class _Page(HTMLParser):
    """Collects text until a block ends, then writes the block according to its tag."""

    def __init__(self, *, has_main: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.builder = DocumentBuilder()
        self.title = ""
        self._main = 0 if has_main else 1
        self._skipped = ("", 0)
        """The outermost skipped tag, and the number of open elements with this tag."""
        self._text: list[str] = []
        self._lines: list[str] = []
        """Lines of the current list or table."""
        self._cells: list[str] | None = None
        """Cells of the current row; None outside of rows."""
        self._lists: list[int] = []
        """For each open list, the number of its next item; 0 for a list without numbers."""
        self._mark = ""
        self._block = ""
        """Tag of the current block if it needs special treatment, otherwise ""."""
        self._is_typed = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        skipped, depth = self._skipped
        if depth:
            self._skipped = (skipped, depth + (tag == skipped))
        elif tag == "br":
            self._text.append("\n")
        elif tag == "img":
            alt = dict(attrs).get("alt") or ""
            self._text.append("" if alt.startswith("[") else alt)  # [Note]: an icon
        elif tag not in _VOID and _is_left_out(tag, dict(attrs)):
            if tag in _BLOCKS:
                self._end_block()
            self._skipped = (tag, 1)
        elif tag in ("td", "th"):
            self._end_cell()
            self._cells = self._cells or []
        elif tag in _BLOCKS:
            self._begin_block(tag)
        elif self._block == "dt" and tag in _TYPED:
            self._is_typed = self._is_typed or not any(map(str.strip, self._text))

    def handle_endtag(self, tag: str) -> None:
        skipped, depth = self._skipped
        if depth:
            self._skipped = (skipped, depth - (tag == skipped))
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag in _BLOCKS:
            self._end_block()
            self._leave(tag)

    def handle_data(self, data: str) -> None:
        if not self._skipped[1]:
            self._text.append(data if self._block == "pre" else _SPACE.sub(" ", data))

    def give_up(self, most: int) -> None:
        """If more than ``most`` characters wait for an end tag, treats them as text; in a script, drops
        them."""
        if len(self.rawdata) > most:
            waiting = self.rawdata
            self.rawdata = waiting[-_END_TAG:] if self.cdata_elem else waiting.replace("<", "&lt;")

    def _begin_block(self, tag: str) -> None:
        if tag in _ENDS_A_ROW:
            self._end_row()
        self._end_block()
        if tag in ("pre", "dt", "title", "summary") or tag in _HEADINGS:
            self._block = tag
        if tag == "main":
            self._main += 1
        elif tag in ("ul", "ol"):
            self._lists.append(int(tag == "ol"))
        elif tag == "li":
            number = self._lists[-1] if self._lists else 0
            self._mark = f"{number}. " if number else "* "
            if number:
                self._lists[-1] += 1
        elif tag in ("dl", "dt", "table"):
            self.end_lines()
            if tag == "dt":
                self.builder.leave(_TERM_LEVEL)

    def _leave(self, tag: str) -> None:
        if tag == "main":
            self._main -= 1
        elif tag == "tr":
            self._end_row()
        elif tag in ("ul", "ol"):
            del self._lists[-1:]
            if not self._lists:
                self.end_lines()
        elif tag in ("dl", "table", "dd"):
            self.end_lines()
        if tag in ("dl", "details"):
            self.builder.leave(_TERM_LEVEL)

    def _end_block(self) -> None:
        """Writes the collected text as a block; in a table cell, only adds a blank."""
        if self._cells is not None:
            self._text.append(" ")
            return
        block, text, is_typed = self._block, "".join(self._text), self._is_typed
        self._block, self._text, self._is_typed = "", [], False
        if block == "title":
            self.title = self.title or _SPACE.sub(" ", text).strip()
        elif self._main <= 0 or not text.strip():
            return
        elif block in _HEADINGS:
            self.end_lines()
            self.builder.heading(_HEADINGS[block], text.strip(" \n¶"))
        elif block == "summary" or (block == "dt" and (is_typed or _OPTION.match(text.strip()))):
            self.end_lines()
            self.builder.heading(_TERM_LEVEL, text)
        elif block == "pre":
            self.end_lines()
            self.builder.lines("\n".join(f"    {line}" for line in text.expandtabs().strip("\n").split("\n")))
        elif block == "dt" or self._lists:
            self._add_item(text)
        else:
            self.end_lines()
            self.builder.lines("\n".join(line.strip() for line in text.split("\n") if line.strip()))

    def _add_item(self, text: str) -> None:
        indent = "  " * max(0, len(self._lists) - 1) if len(self._lists) < 10 else ""
        line = _SPACE.sub(" ", text).strip()
        self._lines.append(indent + (self._mark or "  " * bool(self._lists)) + line)
        self._mark = ""

    def _end_cell(self) -> None:
        if self._cells is None:
            self._end_block()
        else:
            if text := _SPACE.sub(" ", "".join(self._text)).strip():
                self._cells.append(text)
            self._text = []

    def _end_row(self) -> None:
        if self._cells is not None:
            self._end_cell()
            if self._cells and self._main > 0:
                self._lines.append(" | ".join(self._cells))
            self._cells = None

    def end_lines(self) -> None:
        """Writes the current list or table to the document."""
        self._end_row()
        if self._text:
            self._end_block()
        lines, self._lines = self._lines, []
        self.builder.lines("\n".join(lines))


def _is_left_out(tag: str, attributes: dict[str, str | None]) -> bool:
    if tag in _PAGE_ITSELF:
        return False
    classes = {*(attributes.get("class") or "").split(), attributes.get("id") or ""}
    return (
        tag in _LEFT_OUT
        or attributes.get("role") in _LEFT_OUT_ROLES
        or "hidden" in attributes
        or bool(classes & _LEFT_OUT_CLASSES)
        or {"contents", "topic"} <= classes  # docutils
        or (tag == "table" and bool(classes & _LAYOUT))
    )
