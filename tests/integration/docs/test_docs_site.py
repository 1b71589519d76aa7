"""The site of the documents: it is complete, takes nothing from elsewhere, and its search finds the words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.unit.docs.test_glossary import TERMS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as ``make docs`` does, where any warning is a failure."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def entries(site: Path) -> list[dict[str, Any]]:
    """The search index: sections of pages."""
    found: list[dict[str, Any]] = json.loads((site / "search/search_index.json").read_text("utf-8"))["docs"]
    return found


def test_every_page_is_on_it_and_no_pointer(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").glob("*/**/*.md")}
    assert all((site / page).with_suffix(".html").is_file() for page in pages)
    assert [page.name for page in site.glob("*.html")] in (
        ["index.html", "404.html"],
        ["404.html", "index.html"],
    )


def test_pages_of_the_repository_are_on_it(site: Path) -> None:
    architecture = (site / "development/overview.html").read_text("utf-8")
    assert "request_handler" in architecture and 'href="glossary.html"' in architecture
    assert (site / "benchmarks/RESULTS.html").is_file()


def test_links_to_files_of_the_repository_lead_to_them_on_the_site(site: Path) -> None:
    pools = (site / "guides/pools.html").read_text("utf-8")
    assert re.search(r'src="../benchmarks/[\w/]*fleet_latency.svg"', pools)
    assert 'href="../benchmarks/RESULTS.html"' in pools
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # served at any path, with links from the root
            continue
        for link in re.findall(r'(?:href|src)="?([^"#\s>]+)', page.read_text("utf-8")):
            if not re.match(r"\w+:", link):
                assert (page.parent / link).exists(), f"{page.relative_to(site)}: {link}"


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = r"""<(?:script|img|iframe)[^>]* src="?(?:https?:)?//|<link [^>]*href="?(?:https?:)?//"""
    loads += r"|@import|url\((?:https?:)?//"
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not re.search(loads, file.read_text("utf-8")), file
    for page in site.rglob("*.html"):  # the theme fetches what draws these from a server
        assert 'class="mermaid"' not in page.read_text("utf-8"), page


def test_names_of_files_are_titles_of_their_blocks(site: Path) -> None:
    page = (site / "guides/apps.html").read_text("utf-8")
    assert '<span class="filename">ask.py</span>' in page and "```" not in page


def test_cells_of_wide_tables_are_labelled_for_phones(site: Path) -> None:
    page = (site / "reference/mqtt.html").read_text("utf-8")
    assert re.search(r'<td data-label="QoS">1</td>', page)
    (narrow, *_) = re.findall(r"(?s)<table>.*?</table>", page)
    assert "data-label" not in narrow


def test_steps_stay_in_their_list_with_their_commands(site: Path) -> None:
    page = (site / "getting-started/install.html").read_text("utf-8")
    (steps,) = re.findall(r"(?s)<ol>(.*?)</ol>", page)
    assert steps.count("<li>") == 4 and steps.count("<pre>") == 3


@pytest.mark.parametrize("term", TERMS)
def test_its_search_finds_the_words_of_the_field(entries: list[dict[str, Any]], term: str) -> None:
    pattern = re.compile(term.replace(" ", "[ -]"), re.IGNORECASE)
    found = {entry["location"].partition("#")[0] for entry in entries if pattern.search(entry["text"])}
    assert "development/glossary.html" in found


@pytest.mark.parametrize(
    "word", ["train", "threshold", "retry", "false positive", "throughput", "fallback", "timeout", "queue"]
)
def test_its_search_finds_what_people_look_for(entries: list[dict[str, Any]], word: str) -> None:
    found = {entry["location"] for entry in entries if re.search(rf"\b{word}", entry["text"], re.IGNORECASE)}
    assert any(location.startswith(("guides/", "reference/", "operations/")) for location in found)


def test_its_search_leaves_out_what_has_all_words(entries: list[dict[str, Any]]) -> None:
    found = {entry["location"].partition("#")[0] for entry in entries}
    assert "guides/pools.html" in found and "benchmarks/RESULTS.html" in found
    assert not {"benchmarks/LOG.html", "development/changelog.html"} & found


def test_the_navigation_names_what_the_index_names() -> None:
    text = re.sub(r"(?ms)^markdown_extensions:.*?(?=^\w)", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(yaml.safe_load(text)["nav"])))
    index = (ROOT / "docs/index.md").read_text("utf-8")
    linked = {path for path in re.findall(r"\]\(([^)#\s]+\.md)", index) if not path.startswith("..")}
    assert linked <= named
