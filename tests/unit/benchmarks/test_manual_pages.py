"""benchmarks/lib/manual_pages.py: what mandoc makes of a page, and what is said where it makes nothing."""

from __future__ import annotations

from types import ModuleType

import pytest

from edgeslm.errors import ExportError
from tests.support.benchmarks.scripts import load_scripts

FAKE = ("sed", r"s/^[.]SH \(.*\)/<h1>\1<\/h1>/")


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return load_scripts("manual_pages")["manual_pages"]


def test_a_page_goes_through_the_command(pages: ModuleType) -> None:
    assert pages.html_of(b".SH NAME\npress", FAKE) == b"<h1>NAME</h1>\npress"


def test_without_mandoc_a_sentence_says_how_to_get_it(pages: ModuleType) -> None:
    with pytest.raises(ExportError, match="apt-get install mandoc"):
        pages.html_of(b"", ("mandoc-that-is-missing",))


def test_what_it_makes_nothing_of_is_told(pages: ModuleType) -> None:
    with pytest.raises(ExportError, match="mandoc can't read"):
        pages.html_of(b"", FAKE)


@pytest.mark.parametrize(
    ("suffix", "is_page"), [(".1", True), (".3pm", True), (".9", False), (".txt", False)]
)
def test_pages_are_told_by_their_section(pages: ModuleType, suffix: str, is_page: bool) -> None:
    assert bool(pages.PAGE.fullmatch(suffix)) == is_page
