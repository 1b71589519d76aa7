from __future__ import annotations

from edgeslm.tasks.grounding import CHARACTERS_PER_TOKEN, confidence, fitting, most_like
from tests.passages import make_found


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


def test_the_sentence_that_says_it() -> None:
    text = "Use ISO VG 46. The pump is oiled every 40 hours. Grease weekly."
    start, end = most_like("Oil the pump every 40 hours", text)
    assert text[start:end] == "The pump is oiled every 40 hours."
    assert most_like("anything", "") == (0, 0)
