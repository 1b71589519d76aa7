from __future__ import annotations

import pytest

from edgeslm.tasks.grounding import (
    CHARACTERS_PER_TOKEN,
    GATE,
    READ_GATE,
    WORDS_GATE,
    confidence,
    figures_of,
    fitting,
    gate_for,
    most_like,
)
from tests.support.passages import make_found


def test_passages_fit_the_budget() -> None:
    passages = [make_found("a" * 100), make_found("b" * 100), make_found("c" * 100)]
    two = int(210 / CHARACTERS_PER_TOKEN)
    assert fitting(passages, two) == passages[:2]
    assert fitting(passages, 1) == passages[:1], "the best is read in any case"
    assert fitting([]) == []


def test_confidence() -> None:
    question = "How often is the pump oiled?"
    good = make_found("The pump is oiled every 40 hours.", cosine=0.8)
    bad = make_found("Grease.", cosine=0.1, bm25=0.0, overlap=0.0, score=0.1, margin=0.0)
    assert confidence(question, []) == 0
    assert 0 <= confidence(question, [bad]) < confidence(question, [good]) <= 1


def test_confidence_is_that_of_the_quote() -> None:
    """Of the same passage: where one sentence stands out, a quote of it is likelier to be right."""
    text = "The pump is oiled every 40 hours. It is blue. Grease weekly."
    places = [(0, 33), (34, 45), (46, len(text))]

    def sure(*cosines: float) -> float:
        sentences = tuple((*place, cosine) for place, cosine in zip(places, cosines, strict=True))
        return confidence("How often?", [make_found(text, sentences=sentences)])

    assert sure(0.7, 0.1, 0.1) > sure(0.7, 0.7, 0.7) > sure(0.1, 0.1, 0.1)


def test_a_gate_of_the_section_counts_quotes_that_miss_the_answer() -> None:
    found = make_found("The pump is oiled every 40 hours.", read=0.999)
    assert confidence("pump", [found]) < READ_GATE.share < 1


def test_the_sentence_that_says_it() -> None:
    text = "Use ISO VG 46. The pump is oiled every 40 hours. Grease weekly."
    start, end = most_like("Oil the pump every 40 hours", text)
    assert text[start:end] == "The pump is oiled every 40 hours."
    assert most_like("anything", "") == (0, 0)


def test_a_reader_has_a_gate_of_its_own() -> None:
    question = "How often is the pump oiled?"
    read, unread = make_found("The pump is oiled every 40 hours.", read=0.99), make_found("Grease.")
    assert gate_for([unread]) is GATE
    assert gate_for([make_found("Grease.", cosine=None)]) is WORDS_GATE
    assert gate_for([read, unread]) is READ_GATE
    doubted = make_found("The pump is oiled every 40 hours.", read=0.01)
    assert 0 <= confidence(question, [doubted]) < confidence(question, [read]) <= 1


@pytest.mark.parametrize("likely", [0.0, 1.0])
def test_a_reader_that_is_sure_gives_numbers(likely: float) -> None:
    figures = figures_of("pump?", [make_found("The pump.", read=likely), make_found("Oil.", read=0.5)])
    assert 6 < abs(figures["read"]) < 10
    assert figures_of("pump?", [make_found("The pump.")])["read"] == 0


def test_words_of_a_passage_count_by_the_stems_of_its_language() -> None:
    """German words in another form were missing, so right passages were declined."""
    texts = ("Wir prüfen die Ventile jährlich.", "Die Heizung ist rot.")
    question = "Wie prüfe ich ein Ventil?"
    german = figures_of(question, [make_found(text, language="de") for text in texts])
    plain = figures_of(question, [make_found(text) for text in texts])
    assert german["coverage"] == pytest.approx(1.0)
    assert plain["coverage"] < 1.0
    assert figures_of("Is the valve checked?", [make_found("Valves are checked.")])["coverage"] == 1.0
