"""What a reader makes of the sources that it didn't learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from edgeslm_export.train.cross_encoder_training import Asked, PairText

from edgeslm.engine.calls import Output
from tests.support.benchmarks.scripts import load_scripts

ASIDE = load_scripts("reader_aside")["reader_aside"]
BODY = "The press is blue and rather large. Oil it every 40 hours. Then let it rest for a while. Stop."
TEXT = f"Care\n{BODY}"
START = TEXT.index("every")
OWN = PairText(TEXT, answers=True, place=(START, START + 14))
CUT = PairText(TEXT.replace("Oil it every 40 hours. ", ""), answers=False)
ASKED = [Asked("how often?", (OWN, CUT, PairText("Wax.", answers=False, is_own=False)))]


def said(answers: float) -> Any:
    """A reader that looks for the answer's words, and points at them."""

    def ask(question: str, texts: Sequence[str]) -> Output:
        likely = tuple(answers if "40 hours" in text else 1 - answers for text in texts)
        at = [text.find("40") for text in texts]
        return Output(probabilities=likely, places=tuple(((a, a + 8, 0.9),) if a > 0 else () for a in at))

    return ask


def test_the_sentence_that_answers_and_the_one_beside_it() -> None:
    own, others, near = ASIDE.parts_of(OWN)
    assert [TEXT[slice(*place)] for place in own] == ["Oil it every 40 hours."]
    assert [TEXT[slice(*place)][:4] for place in others] == ["The ", "Then", "Stop"]
    assert near is not None and TEXT[slice(*near)] == "Then let it rest for a while."
    assert ASIDE.joined(OWN, own) == "Care\nOil it every 40 hours."
    assert ASIDE.parts_of(PairText("Care\nStop.", answers=True, place=(5, 9)))[2] is None


@pytest.mark.parametrize(("answers", "area"), [(0.9, 1.0), (0.1, 0.0)])
def test_a_reader_is_judged_by_what_it_says(answers: float, area: float) -> None:
    found = ASIDE.judge(ASKED, said(answers))
    assert found["near"]["all"] == found["near"]["0-60"] == found["other"]["all"] == area
    assert found["near"]["60-100"] is None
    for kind in ("sentence", "neighbour"):
        assert found[kind] == {"pairs": 1, "area": area, "above": [area, 1 - area]}
    assert found["pointed"] == 1.0


def test_where_it_points() -> None:
    assert ASIDE.points_right(OWN, ((START, START + 5, 0.4), (5, 8, 0.3)))
    assert not ASIDE.points_right(OWN, ((START, START + 5, 0.3), (5, 8, 0.4)))
