"""benchmarks/lib/summary_quality.py: what it measures with, without any model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from edgeslm.knowledge.documents.passages import Document, Heading
from tests.support.benchmarks.scripts import load_scripts

LIST = """\
Package: foo
Description-md5: 0
Description-en: short thing
 {words}
 .
  - an item

Package: foo-dev
Description-md5: 0
Description-en: short thing, headers
 {words}
 .
  - an item

Package: bar
Description-en: too short
 A line.
""".format(words=("Foo does one thing and another. " * 10).strip())


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("rouge", "descriptions", "summary_quality")


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("The cat sat", "the cat sat.", 1.0),
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", "police kill the gunman", 0.5),
        ("a", "b", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l(scripts: dict[str, ModuleType], text: str, reference: str, score: float) -> None:
    assert scripts["rouge"].rouge_l(text, reference) == pytest.approx(score)


def test_descriptions_are_read_as_policy_has_them(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    first, second = scripts["descriptions"].parse_descriptions(LIST)
    assert (first.package, first.synopsis) == ("foo", "short thing")
    assert first.text.endswith("another.\n\n - an item")
    assert second.package == "foo-dev"


def test_each_text_counts_once_and_in_one_half(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "Translation-en").write_text(LIST)
    halves = [scripts["descriptions"].load_descriptions(tmp_path, is_test=half) for half in (True, False)]
    assert sorted(len(half) for half in halves) == [0, 1]


def test_a_point_fits_a_message_or_not(scripts: dict[str, ModuleType]) -> None:
    fits = scripts["summary_quality"].fits
    assert fits("Belt * tore (a.b)", "Belt  7 tore (a.b)")
    assert not fits("Belt * tore", "Belt 7 is whole")
    assert not fits("a.b", "acb")
    assert fits("a b …", "a b c d")


def test_the_share_of_sentences_that_texts_support(scripts: dict[str, ModuleType]) -> None:
    share = scripts["summary_quality"].supported_share
    assert share(["Belt 2 tore. Belt 3 tore."], ["Belt 2 tore."]) == 0.5
    assert share([], []) == 1.0


def test_sections_have_text_of_their_own(scripts: dict[str, ModuleType]) -> None:
    body = "word " * 30
    text = f"1 One\n1.1 Two\n{body}\n1.2 Three\n{body}\n"
    headings = tuple(
        Heading(level, title, text.index(title), text.index(title) + len(title) + 1)
        for level, title in ((1, "1 One"), (2, "1.1 Two"), (2, "1.2 Three"))
    )
    document = Document("d", "d", text, headings)
    sections = scripts["summary_quality"].find_sections(document)
    assert [document.text[start:end].strip() for start, end in sections] == [body.strip()] * 2
