"""ROUGE-L: longest common subsequence of a summary and a reference (Lin 2004, section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")


def rouge_l(text: str, reference: str) -> float:
    """F measure with equal weights over the longest common subsequence of words, without case; 0 to 1."""
    ours, theirs = _WORD.findall(text.lower()), _WORD.findall(reference.lower())
    common = longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest subsequence that both have."""
    row = [0] * (len(theirs) + 1)
    for word in ours:
        before = 0
        for place, other in enumerate(theirs, 1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]
