"""Extractive summary: selects the most central sentences of a text.

A sentence's score is the cosine similarity between the word counts of the sentence and of the text, plus a
bonus for an early position, as in MEAD (Radev et al., 2004, section 3). Words of a selected sentence get a
lower weight when the next sentence is selected (SumBasic, Nenkova and Vanderwende 2005).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.support import content_words

MOST_SENTENCES = 2_000
"""Maximum number of sentences of a text that are scored. This many sentences fill about a hundred pages, and
scoring them takes less than 0.1 s."""
LEAD = 2.0
"""Weight of the bonus for an early position, tuned on descriptions of software packages."""
FEWEST_WORDS = 3
"""Minimum number of content words of a selected sentence, unless all sentences have fewer.

A sentence with fewer content words is often a greeting or a title.
"""
SAID = 0.25
"""Factor that reduces the weight of a word each time a sentence that contains it is selected."""
LONGEST = 400
"""Maximum length of a selected sentence, in characters, unless all are longer.

A longer sentence is often a table or log.
"""


def best_sentences(text: str, *, most: int = 2) -> list[tuple[int, int]]:
    """Start and end of the most central sentences, at most ``most`` of them, in text order.

    If no sentence has content words, the first sentences are returned.
    """
    spans = split_sentences(text)[:MOST_SENTENCES]
    spans = [span for span in spans if span[1] - span[0] <= LONGEST] or spans
    best = central([text[slice(*span)] for span in spans], most=most, lead=LEAD)
    return [spans[number] for number in best] or spans[:most]


def central(sentences: Sequence[str], *, most: int, lead: float = 0.0) -> list[int]:
    """Indexes of the most central sentences, at most ``most`` of them, in ascending order.

    :param lead: position bonus of the first sentence, relative to the best score; later sentences get a
        smaller bonus.
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
