"""Hook of mkdocs: adds files outside of ``docs/`` to the site, rewrites links and labels cells of tables.

Links in pages are paths in the repository, so that they work there too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
PAGES = {
    "README.md": "getting-started/overview.md",
    "ARCHITECTURE.md": "development/overview.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "CHANGELOG.md": "development/changelog.md",
}
"""Paths in the repository, and on the site where they differ."""
UNSEARCHED = {"CHANGELOG.md", "benchmarks/LOG.md"}
"""Long pages that would fill the search results."""

FENCE = re.compile(r"(?ms)^( *)(`{3,})(\w*)[^\n]*\n(.*?)^\1\2 *$")
WIDE = 4
"""Columns from which phones show a row of a table as a list (``docs/site.css``)."""
LINK = re.compile(r"\[(?P<label>[^\[\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def links(text: str) -> Iterator[re.Match[str]]:
    """Links to files, outside of code."""
    code = [found.span() for found in FENCE.finditer(text)]
    for link in LINK.finditer(text):
        is_code = any(start <= link.start() < end for start, end in code)
        if not is_code and not re.match(r"\w+:", link["target"]):
            yield link


def linked(page: str, link: re.Match[str]) -> str:
    """The link's path in the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link["target"]))


def place_of(path: str) -> str:
    """Path on the site of the file at ``path`` in the repository."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix(DOCS) if "/" in path else f"development/{path.lower()}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds ``PAGES``, and pages and pictures that they or the pages in ``docs/`` link to."""
    found = dict.fromkeys([*PAGES, *(DOCS + file.src_uri for file in files.documentation_pages())])
    waiting = list(found)
    while waiting:
        page = waiting.pop()
        for path in (linked(page, link) for link in links((ROOT / page).read_text("utf-8"))):
            if path not in found and path.endswith((".md", ".svg", ".png")) and not path.startswith(DOCS):
                found[path] = None
                if path.endswith(".md"):
                    waiting.append(path)
    for path in found:
        if not path.startswith(DOCS):
            place, file = place_of(path), str(ROOT / path)
            level = InclusionLevel.NOT_IN_NAV  # it may be there
            files.append(File.generated(config, place, abs_src_path=file, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links for the site; a file name after a code fence's language becomes the title."""
    file = page.file
    path = str(Path(file.abs_src_path or "").relative_to(ROOT))
    if path in UNSEARCHED:
        page.meta["search"] = {"exclude": True}

    def relink(link: re.Match[str]) -> str:
        target = linked(path, link)
        if files.get_file_from_path(place_of(target)) is None and not target.endswith(".md"):
            return link["label"]  # code, which isn't on the site
        place = posixpath.relpath(place_of(target), posixpath.dirname(file.src_uri) or ".")
        return f"[{link['label']}]({place}{link['anchor'] or ''})"

    for link in reversed(list(links(markdown))):
        markdown = markdown[: link.start()] + relink(link) + markdown[link.end() :]
    return re.sub(r"(?m)^( *```\w+) (?:(\S+\.\w+)|.+)$", title, markdown)


def title(fence: re.Match[str]) -> str:
    return f'{fence[1]} title="{Path(fence[2]).name}"' if fence[2] else fence[1]


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Labels the cells of wide tables with the heads of their columns."""
    return re.sub(r"(?s)<table>(.*?)</table>", label_cells, html)


def label_cells(table: re.Match[str]) -> str:
    heads = [re.sub(r"<[^>]*>", "", head) for head in re.findall(r"(?s)<th[^>]*>(.*?)</th>", table[1])]
    if len(heads) < WIDE:
        return table[0]
    labels = cycle(head.replace('"', "&quot;") for head in heads)
    cells = re.sub(r"<td(?=[ >])", lambda _: f'<td data-label="{next(labels)}"', table[1])
    return f"<table data-wide>{cells}</table>"
