"""benchmarks/lib/retrieval.py: questions are taken out of the passages, answers keep their place."""

from __future__ import annotations

from types import ModuleType

import pytest

from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.index.queries import Found
from edgeslm.knowledge.readers.plain_text import read_plain_text
from tests.support.benchmarks.scripts import load_scripts

FAQ = """\
Chapter 1. Care of the press
============================

1.1. How often is it oiled?
---------------------------

Each week. See "How often is it
oiled?" for more.

1.1.1. Is there more?
~~~~~~~~~~~~~~~~~~~~~

There is grease.

1.2. And what else?
-------------------

A cloth.

1.3. Spare parts
----------------

None are needed.
"""


@pytest.fixture(scope="module")
def retrieval() -> ModuleType:
    return load_scripts("machine", "cards", "grounded_questions", "retrieval")["retrieval"]


@pytest.fixture(scope="module")
def faq() -> Document:
    return read_plain_text(FAQ, "faq.txt")


def answers_of(retrieval: ModuleType, asked: object, document: Document) -> dict[str, list[str]]:
    return {
        one.question: [document.text[span.start : span.end] for span in one.answers]
        for one in asked  # type: ignore[attr-defined]
    }


def test_questions_of_chapters_are_asked_and_taken_out(retrieval: ModuleType, faq: Document) -> None:
    asked, passages = retrieval.ask_questions(faq)
    (question,) = answers_of(retrieval, asked, faq)
    assert question == "How often is it oiled?"
    assert len(asked[0].answers) == 2  # what is below its section is its own
    assert not any("?" in title for passage in passages for title in passage.heading)
    assert not any("oiled" in passage.text for passage in passages)
    assert any("See" in passage.text for passage in passages)
    assert [passage.number for passage in passages] == list(range(len(passages)))


def test_titles_of_lowest_sections_are_asked_without_their_numbers(
    retrieval: ModuleType, faq: Document
) -> None:
    asked, passages = retrieval.ask_titles(faq)
    answers = answers_of(retrieval, asked, faq)
    assert answers["Spare parts"] == ["None are needed."]
    assert set(answers) == {"Is there more?", "And what else?", "Spare parts"}
    assert not any("Spare parts" in title for passage in passages for title in passage.heading)


def test_an_answer_in_a_man_page_is_found_by_its_words(retrieval: ModuleType) -> None:
    source = ".TH PRESS 1\nOil it\\&. Use \\fB\\-\\-grease\\fR\nwith care\\&.\nOil it\\&.\n"
    text = "Oil it. Use --grease with care. Oil it."
    document = Document("press.1", "press", text)

    def found(words: str, after: int = 0) -> tuple[int, int]:
        start = source.index(words, after)
        span = retrieval.Span("press.1", start, start + len(words))
        place = retrieval.find_answer(document, source, span)
        return place.start, place.end

    start, end = found("Use \\fB\\-\\-grease\\fR\nwith")
    assert text[start:end] == "Use --grease with"
    assert found("Oil it", after=30) == (text.rindex("Oil"), text.rindex("."))
    with pytest.raises(ValueError, match="nowhere: th press"):
        retrieval.find_answer(document, "TH PRESS", retrieval.Span("press.1", 0, 8))


def test_the_first_right_passage_has_the_rank(retrieval: ModuleType) -> None:
    found = [
        Found(str(n), "a", "", "", 10 * n, 10 * n + 10, score=0, bm25=0, cosine=0, overlap=0, margin=0)
        for n in range(5)
    ]
    spans = (retrieval.Span("b", 0, 5), retrieval.Span("a", 29, 31))
    assert retrieval.rank(found, spans) == 2
    assert retrieval.rank(found, (retrieval.Span("a", 50, 60),)) == 5
    assert retrieval.share_within([0, 2, 5, 5], 3) == 0.5
