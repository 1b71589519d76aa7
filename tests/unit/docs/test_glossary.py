"""docs/development/glossary.md: every place in it exists, and so do the words that the field greps for."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/development/glossary.md").read_text("utf-8")
PLACES = sorted(
    {
        place
        for row in PAGE.splitlines()[4:]
        for place in re.findall(r"`([\w/]+)`", row.rpartition("|")[0].rpartition("|")[2])
    }
)
TERMS = (
    *("KV cache", "prefix cache", "rate limit", "idempotent", "dead letter", "load balancer", "backpressure"),
    *("single flight", "poison", "canary", "tumbling window", "confidence calibration", "leader election"),
    "quarantine",
)


@pytest.mark.parametrize("place", PLACES)
def test_every_place_exists(place: str) -> None:
    path = ROOT / (place if place.startswith("export/") else f"edgeslm/{place}")
    assert path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("term", TERMS)
def test_the_fields_words_are_in_the_glossary_and_in_the_code(term: str) -> None:
    pattern = re.compile(term.replace(" ", "[ -]"), re.IGNORECASE)
    assert pattern.search(PAGE)
    modules = (ROOT / "edgeslm").rglob("*.py")
    assert any(
        pattern.search(path.read_text("utf-8").split('"""')[1]) for path in modules if path.stat().st_size
    )
