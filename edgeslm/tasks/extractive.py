"""Extractive summary: the sentences of a text that say most of it.

Best is the one whose words are nearest to all words of the text, by the cosine of their counts, and which
stands early: the centroid and the position of MEAD (Radev et al. 2004, section 3). What it said counts less
for the next one (SumBasic, Nenkova and Vanderwende 2005). Knows no engine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.support import content_words

MOST_SENTENCES = 2_000
"""Of a text that are looked at: some hundred pages, in a few hundredths of a second each time."""
LEAD = 2.0
"""What it counts to stand first, beside what a sentence says: chosen on package descriptions."""
FEWEST_WORDS = 3
"""Of content. A sentence with fewer is a greeting or a title more likely, and taken where nothing else is."""
SAID = 0.25
"""What a word still counts once a sentence with it was chosen."""
LONGEST = 400
"""Characters. What is longer is a table or a log more likely than a sentence."""


def best_sentences(text: str, *, most: int = 2) -> list[tuple[int, int]]:
    """Start and end of up to ``most`` sentences, in the order of the text; the first if it has no words."""
    spans = split_sentences(text)[:MOST_SENTENCES]
    spans = [span for span in spans if span[1] - span[0] <= LONGEST] or spans
    best = central([text[slice(*span)] for span in spans], most=most, lead=LEAD)
    return [spans[number] for number in best] or spans[:most]


def central(sentences: Sequence[str], *, most: int, lead: float = 0.0) -> list[int]:
    """Numbers of up to ``most`` sentences that say most of what all say, in their order.

    :param lead: what it counts to be the first of them, as a share of what the best one says; the last one
        has nothing of it.
    """
    words = {number: Counter(found) for number, one in enumerate(sentences) if (found := content_words(one))}
    words = {number: found for number, found in words.items() if len(found) >= FEWEST_WORDS} or words
    weights: dict[str, float] = {}
    for counts in words.values():
        for word, count in counts.items():
            weights[word] = weights.get(word, 0.0) + count

    def closeness(number: int) -> float:
        counts = words[number]
        length = math.sqrt(sum(count * count for count in counts.values()))
        return sum(count * weights[word] for word, count in counts.items()) / length

    best = max(map(closeness, words), default=0.0)
    leads = {number: lead * best * (1 - number / len(sentences)) for number in words}
    chosen: list[int] = []
    while words and len(chosen) < most:
        chosen.append(max(words, key=lambda number: closeness(number) + leads[number]))
        for word in words.pop(chosen[-1]):
            weights[word] *= SAID
    return sorted(chosen)
