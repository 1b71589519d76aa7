"""The sentences of a text that say most of it: what is told where a model's own words are of no use.

First comes the one whose words are nearest to all words of the text, by the cosine of their counts: a
centroid, as in MEAD (Radev et al. 2004, section 3). What it said counts less for the next one (SumBasic,
Nenkova and Vanderwende 2005). Knows no engine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from edgeslm.tasks.support import content_words, split_sentences

MOST_SENTENCES = 2_000
"""Of a text that are looked at: some hundred pages, in a few hundredths of a second each time."""
SAID = 0.25
"""What a word still counts once a sentence with it was chosen."""
LONGEST = 400
"""Characters. What is longer is a table or a log more likely than a sentence."""


def best_sentences(text: str, *, most: int = 2) -> list[tuple[int, int]]:
    """Start and end of up to ``most`` sentences, in the order of the text; none if it has no words."""
    spans = split_sentences(text)[:MOST_SENTENCES]
    spans = [span for span in spans if span[1] - span[0] <= LONGEST] or spans
    return [spans[number] for number in central([text[slice(*span)] for span in spans], most=most)]


def central(sentences: Sequence[str], *, most: int) -> list[int]:
    """Numbers of up to ``most`` sentences that say most of what all say, in their order."""
    words = {number: Counter(found) for number, one in enumerate(sentences) if (found := content_words(one))}
    weights: dict[str, float] = {}
    for found in words.values():
        for word, count in found.items():
            weights[word] = weights.get(word, 0.0) + count
    chosen: list[int] = []

    def closeness(number: int) -> float:
        found = words[number]
        length = math.sqrt(sum(count * count for count in found.values()))
        return sum(count * weights[word] for word, count in found.items()) / length

    while words and len(chosen) < most:
        best = max(words, key=closeness)
        chosen.append(best)
        for word in words.pop(best):
            weights[word] *= SAID
    return sorted(chosen)
