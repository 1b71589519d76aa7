"""How a model on trial is doing."""

from __future__ import annotations

from collections import Counter

import pytest

from edgeslm.update.canary import Canary


def trial(**before: dict[str, int]) -> Canary:
    counts = {task: Counter(results) for task, results in before.items()}
    return Canary.begin("sha256:1", ["say", "triage"], 1, counts)


@pytest.mark.parametrize(
    ("ends", "after", "words"),
    [
        (1, {}, ""),
        (2, {}, ""),
        (3, {}, "its engine exited unexpectedly 2 times"),
        (1, {"say": {"ok": 10, "poisoned": 2}}, ""),
        (1, {"say": {"ok": 10, "poisoned": 3}}, "3 of 13 requests failed"),
        (1, {"say": {"ok": 90, "poisoned": 3}}, ""),
        (1, {"say": {"invalid_request": 9, "busy": 9}}, ""),
        (1, {"other": {"timeout": 9}}, ""),
    ],
)
def test_only_what_it_may_be_the_cause_of_counts(
    ends: int, after: dict[str, dict[str, int]], words: str
) -> None:
    assert trial().why_bad(ends, {task: Counter(results) for task, results in after.items()}) == words


def test_what_was_as_bad_before_is_not_held_against_it() -> None:
    begun = trial(say={"ok": 10, "timeout": 10})
    assert begun.why_bad(1, {"say": Counter({"ok": 20, "timeout": 20})}) == ""
