"""benchmarks/lib/grounded.py: what counts as right, declined and unsupported."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from edgeslm.knowledge.documents.passages import Document
from tests.support.benchmarks.scripts import load_scripts
from tests.support.passages import make_found

TEXT = "Oil the pump every 40 hours. Grease the chain weekly."


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("grounded_questions", "retrieval", "grounded_collection", "grounded")


def make_asked(scripts: dict[str, ModuleType], answer: tuple[int, int] | None = (0, 28)) -> Any:
    questions, collection = scripts["grounded_questions"], scripts["grounded_collection"]
    spans = [] if answer is None else [questions.Span("press.md", *answer)]
    kind = "near" if answer is None else "answered"
    question = questions.Question("q1", "How often?", "development", kind, "", tuple(spans))
    sections = {("press.md", "Care")} if spans else set()
    return collection.Asked(question, [make_found(TEXT, source="press.md", heading="Care")], spans, sections)


def answered(
    scripts: dict[str, ModuleType], confidence: float, *, right: bool = True, known: bool = True
) -> Any:
    asked = make_asked(scripts, (0, 28) if known else None)
    return scripts["grounded"].Answered(
        asked, confidence, "text", right and known, right and known, True, False
    )


def test_a_quote_is_right_in_its_section_and_verbatim_at_its_offsets(scripts: dict[str, ModuleType]) -> None:
    grounded, ground = scripts["grounded"], scripts["grounded_collection"].Ground
    documents = {"press.md": Document("press.md", "Press", TEXT)}
    asked = make_asked(scripts)
    here = ground([asked], documents)
    citation = {"source": "press.md", "heading": "Care", "quote": "40 hours", "start": 19, "end": 27}

    def judged(**changed: Any) -> Any:
        result = {"text": "40 hours", "confidence": 0.9, "citations": [{**citation, **changed}]}
        return grounded.judge(asked, grounded.Outcome("ok", result, None), here)

    assert (judged().is_right, judged().is_verbatim, judged().has_answer) == (True, True, True)
    assert not judged(heading="Other").is_right
    assert not judged(start=18).is_verbatim
    assert not judged(start=29, end=37).has_answer


def test_figures_at_a_threshold(scripts: dict[str, ModuleType]) -> None:
    rows = [
        answered(scripts, 0.9),
        answered(scripts, 0.8, right=False),
        answered(scripts, 0.3),
        answered(scripts, 0.7, known=False),
        answered(scripts, 0.1, known=False),
    ]
    found = scripts["grounded"].figures(rows, 0.5)
    assert found["right_section_of_answered"] == 0.5
    assert found["answer_quoted"] == 1.0
    assert found["answerable_declined"] == round(1 / 3, 3)
    assert found["unanswerable_answered"] == 0.5
    points = scripts["grounded"].curve(rows)
    assert [round(risk, 2) for _, risk, _ in points] == [0.0, 0.5, 0.67, 0.5, 0.6]


def test_a_curve_is_drawn(scripts: dict[str, ModuleType]) -> None:
    rows = [answered(scripts, 0.9), answered(scripts, 0.1, known=False)]
    assert "<svg" in scripts["grounded"].chart(scripts["grounded"].curve(rows), 0.5, "title")


def test_texts_are_judged_alike(scripts: dict[str, ModuleType]) -> None:
    documents = {"press.md": Document("press.md", "Press", TEXT)}
    asked = make_asked(scripts)
    ground = scripts["grounded_collection"].Ground([asked], documents)
    said = [(asked, "The pump is oiled every 40 hours."), (asked, "Paris is in France."), (asked, "")]
    found = scripts["grounded"].compared(said, ground)
    assert found == {"answers": 2, "accurate_of_answerable": 0.333, "sentences": 2, "unsupported": 0.5}
