"""Counting the answers of rewound caches that differ, with decoders that need no model."""

from __future__ import annotations

from typing import Any, cast

from benchmarks.lib.rewinds import compare
from edgeslm.engine.calls import Generate, Output, Score


class Fake:
    """Answers with the number of requests since its caches were forgotten, if it is ``wrong``."""

    def __init__(self, *, wrong: bool) -> None:
        self.wrong, self.since = wrong, 0

    def forget(self) -> None:
        self.since = 0

    def score(self, call: Score) -> Output:
        self.since += self.wrong
        return Output(probabilities=(1.0 - self.since / 100, self.since / 100))

    def generate(self, call: Generate) -> Output:
        self.since += self.wrong
        return Output(text=str(self.since))


def run(*, wrong: bool) -> dict[str, Any]:
    return compare(cast(Any, Fake(wrong=wrong)), cast(Any, Fake(wrong=False)), 50, 1)


def test_every_request_that_differs_is_counted() -> None:
    found = run(wrong=True)
    assert found["labelled"] + found["written"] == found["requests"] == 50
    assert found["labelled_otherwise"] == found["labelled"] > 10
    assert found["written_otherwise"] == found["written"] > 20
    assert found["largest_difference"] > 0.4


def test_equal_answers_are_none() -> None:
    found = run(wrong=False)
    assert found["labelled_otherwise"] == found["written_otherwise"] == found["largest_difference"] == 0
