"""Markdown reader: finds ATX and setext headings (CommonMark 4.2 and 4.3) outside of code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from edgeslm.knowledge.documents.passages import LONGEST_TITLE, Document, Heading

_FENCE = re.compile(r" {0,3}(`{3,}+(?!.*`)|~{3,}+)")
_HASHES = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*\r?")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*\r?")
_TAG = re.compile(r" {0,3}<h([1-6])[^>]*>(.*?)</h\1>\s*", re.IGNORECASE)
_NO_TITLE = re.compile(r"\s*(?:$|[-*+>|]\s|\d+[.)]\s| {4}|\t|```|~~~|<)")
"""Lines that are no title even if underlined: list items, table rows and quotes."""
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n.*?\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:(.*)$", re.MULTILINE)
_MARKUP = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])|<[^>]+>|(\*\*|__|`|\*)(?=\S)(.+?)(?<=\S)\2")


def read_markdown(text: str, source: str) -> Document:
    """Finds headings; the text stays unchanged."""
    front = _FRONT_MATTER.match(text)
    headings = tuple(_headings(text, front.end() if front else 0))
    title = _front_title(text, front.end()) if front else ""
    return Document(
        source, title or (headings[0].title if headings else PurePath(source).name), text, headings
    )


def _front_title(text: str, end: int) -> str:
    """The first non-empty title in the front matter, without quotes around it."""
    titles = (found[1].strip() for found in _FRONT_TITLE.finditer(text, 0, end))
    title = next(filter(None, titles), "")
    is_quoted = len(title) > 2 and title[0] == title[-1] and title[0] in "\"'"
    return title[1:-1] if is_quoted else title


def _headings(text: str, start: int) -> Iterator[Heading]:
    fence = above = ""
    fresh, above_start = True, start
    for line in text[start:].split("\n"):
        end = min(start + len(line) + 1, len(text))
        mark = _FENCE.match(line)
        heading = None
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" `~\r"):
                fence = ""
        elif mark:
            fence = mark[1]
        elif len(line) <= LONGEST_TITLE:
            heading = _heading(line, start, end) or _underlined(above, line, above_start, end)
            if heading:
                yield heading
        # A title has one line. An underline after a longer paragraph is a rule.
        code = bool(fence or mark)
        above = line if fresh and not (code or heading or _NO_TITLE.match(line)) else ""
        fresh = code or heading is not None or not line.strip()
        above_start, start = start, end


def _heading(line: str, start: int, end: int) -> Heading | None:
    if found := _HASHES.fullmatch(line):
        level, title = len(found[1]), found[2] or ""
    elif found := _TAG.fullmatch(line):
        level, title = int(found[1]), found[2]
    else:
        return None
    title = _plain(title)
    return Heading(level, title, start, end) if title else None


def _underlined(above: str, line: str, start: int, end: int) -> Heading | None:
    rule = _UNDERLINE.fullmatch(line) if above and len(above) <= LONGEST_TITLE else None
    title = _plain(above) if rule else ""
    return Heading(1 if rule[1][0] == "=" else 2, title, start, end) if rule and title else None


def _plain(title: str) -> str:
    """A title without its markup."""
    while (bare := _MARKUP.sub(lambda found: found[1] or found[3] or "", title)) != title:
        title = bare
    return " ".join(title.split())
