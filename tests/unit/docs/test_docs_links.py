"""Links in the documents lead somewhere: files, headings, and the pages that code and settings name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FENCE = re.compile(r"(?ms)^( *)(`{3,})[^\n]*\n.*?^\1\2 *$")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "firmware-config/**/*.md")
    for page in ROOT.glob(pattern)
)
FOLDERS = ("edgeslm", "export", "firmware-config", "scripts", "tests", "benchmarks", "docs/examples", ".ci")
OTHERS = {"docs/gguf.md"}
"""In the repository of ggml."""


@cache
def prose(page: Path) -> str:
    """Without blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of its headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"(?m)^#+ +(.+)$", prose(page))
    named = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return frozenset(re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in named)


def faults(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            yield f"{target}: no such file"
        elif anchor and (there.suffix != ".md" or anchor not in anchors(there)):
            yield f"{target}: no such heading"


def test_there_are_pages() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/index.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert list(faults(ROOT / page)) == []


def test_faults_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `word`, two\n[a](#one-word-two) [b](#three) [c](none.md) [d](https://h/none.md)\n")
    assert list(faults(page)) == ["#three: no such heading", "none.md: no such file"]


def named_pages(file: Path) -> Iterator[str]:
    """Of ``docs/``."""
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        return
    yield from re.findall(r"(?<![\w/.-])docs/[\w/-]+\.(?:md|yaml)\b", text)


def test_every_page_that_is_named_exists_where_it_is_named() -> None:
    """Not a pointer to where it has moved."""
    moved = {
        page.relative_to(ROOT).as_posix()
        for page in (ROOT / "docs").glob("*.*")
        if page.read_text("utf-8").lstrip("# ").startswith(("This page has moved", "This file has moved"))
    }
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()]
    kept = [
        file for file in files if file.suffix not in (".pyc", ".jsonl", ".png") and file != Path(__file__)
    ]
    named = {(page, file) for file in kept for page in named_pages(file)}
    assert len(named) > 40
    wrong = [
        f"{file.relative_to(ROOT)}: {page}"
        for page, file in named
        if page not in OTHERS and (page in moved or not (ROOT / page).exists())
    ]
    assert sorted(wrong) == []


def test_every_page_is_reached_from_the_index() -> None:
    pages = {page.resolve() for page in (ROOT / "docs").glob("*/*.md")}
    index = ROOT / "docs/index.md"
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([^)#\s]+)", prose(index))}
    assert pages - linked == set()


def test_the_architecture_is_one_page_and_names_what_exists() -> None:
    for page, most in (("ARCHITECTURE.md", 7500), ("docs/development/architecture.md", 8000)):
        text = (ROOT / page).read_text("utf-8")
        assert len(text.encode()) <= most
        named = re.findall(r"`((?:\w+/)+\w+)`", FENCE.sub("", text))
        assert len(named) >= 15
        for path in named:
            there = ROOT / "edgeslm" / path
            assert there.is_dir() or there.with_suffix(".py").is_file() or (ROOT / path).is_dir(), path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if not page.startswith(("benchmarks/", "CHANGELOG"))]
)
def test_every_file_of_the_repository_that_is_named_exists(page: str) -> None:
    """But for placeholders such as ``NAME``; ``edgeslm/`` begins topics too."""
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(
        r"(?<![\w/.-])((?:benchmarks|tests|scripts|firmware-config|requirements)/[\w./@-]*\w)", text
    )
    wrong = {path for path in named if not (ROOT / path).exists() and "NAME" not in path}
    assert {path for path in wrong if not path.startswith("benchmarks/test_")} == set()
