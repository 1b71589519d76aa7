"""The sentences of a text that say most of it: what is told where a model's own words are of no use.

SumBasic (Nenkova and Vanderwende 2005): words that the text has often are what it is about. The sentence
whose words of content are the most frequent on average comes first; what it said then counts by the square,
so that the next one says something else. Knows no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgeslm.tasks.support import content_words, split_sentences

MOST_SENTENCES = 2_000
"""Of a text that are looked at: some hundred pages, in a few hundredths of a second each time."""
LONGEST = 400
"""Characters. What is longer is a table or a log more likely than a sentence."""


def best_sentences(text: str, *, most: int = 2) -> list[tuple[int, int]]:
    """Start and end of up to ``most`` sentences, in the order of the text; none if it has no words."""
    spans = split_sentences(text)[:MOST_SENTENCES]
    spans = [span for span in spans if span[1] - span[0] <= LONGEST] or spans
    return [spans[number] for number in central([text[slice(*span)] for span in spans], most=most)]


def central(sentences: Sequence[str], *, most: int) -> list[int]:
    """Numbers of up to ``most`` sentences that say most of what all say, in their order."""
    words = {number: found for number, one in enumerate(sentences) if (found := content_words(one))}
    counts = Counter(word for found in words.values() for word in found)
    total = sum(counts.values())
    shares = {word: count / total for word, count in counts.items()}
    chosen: list[int] = []
    while words and len(chosen) < most:
        best = max(words, key=lambda number: sum(shares[word] for word in words[number]) / len(words[number]))
        chosen.append(best)
        for word in set(words.pop(best)):
            shares[word] **= 2
    return sorted(chosen)
