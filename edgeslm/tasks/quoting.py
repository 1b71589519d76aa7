"""Quotes: selects the sentences of a passage that are quoted, and makes grammars for quotes of a context.

A quote is one or two whole sentences. Without a reader model, sentences are compared with the question by
their embeddings and by their words; no text is decoded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Final

from edgeslm.bundle.spans import Place
from edgeslm.engine.calls import Guide
from edgeslm.knowledge.documents.passages import LONGEST_TITLE
from edgeslm.knowledge.documents.sentences import ITEM, PARAGRAPH, split_sentences
from edgeslm.knowledge.index.queries import Found
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.knowledge.index.words import question_shares
from edgeslm.tasks.support import content_words

MOST_QUOTED: Final = 600
"""Maximum length, in characters, of a sentence that is quoted whole; a longer sentence may be a table."""
LIKENESS: Final = 4.0
"""Weight of a sentence's cosine similarity to the question, relative to the log of the probability that the
reader model gives the sentence.

The weight was tuned for MiniLM (``benchmarks/LOG.md``); encoders whose cosines differ less between sentences
need a higher weight.
"""
WORDS: Final = 0.1
"""Weight of the share of the question's words that a sentence contains, relative to its cosine."""
SECOND: Final = 0.2
"""Maximum difference between the scores of the first and the second quoted sentence."""
FEWEST_WORDS: Final = 3
"""Minimum number of content words of a sentence that doesn't end with a full stop; one with fewer is a title,
which is quoted only if the passage has nothing else."""
PART: Final = 6
"""Number of sentences in a part of a context."""
_WORD: Final = re.compile(r"\S+")
_ENDS: Final = re.compile(r"[.!?:。！？][\"'”’)\]」』）]*$")


def quoted(question: str, passage: Found) -> list[Place]:
    """Start and end of the one or two sentences of a passage that are quoted, in the order of the text.

    The list is empty only if the passage is blank.
    """
    if (pointed := pointed_at(passage)) is not None:
        return [pointed]
    places = split_sentences(passage.text)
    worths = _worths(question, passage, places)
    is_title = [_is_title(passage.text[start:end]) for start, end in places]
    order = sorted(range(len(places)), key=lambda number: (is_title[number], -worths[number]))
    chosen: list[Place] = []
    for number in sorted(
        number
        for place, number in enumerate(order[:2])
        if not place or (worths[number] >= worths[order[0]] - SECOND and not is_title[number])
    ):
        start, end = _whole(question, passage, places[number:])
        if chosen and _follows(passage.text, chosen[-1][1], start, places[number - 1][1]):
            start, end = chosen[-1][0], max(end, chosen.pop()[1])
        chosen.append((start, end))
    return chosen


def _is_title(sentence: str) -> bool:
    if len(sentence) > LONGEST_TITLE or _ENDS.search(sentence):
        return False
    return len(content_words(sentence)) < FEWEST_WORDS


def lead(question: str, passage: Found) -> float:
    """Score of the passage's best sentence, minus the mean score of its sentences; 0 if it is blank."""
    worths = _worths(question, passage, split_sentences(passage.text))
    return max(worths) - math.fsum(worths) / len(worths) if worths else 0.0


def _follows(text: str, end: int, start: int, before: int) -> bool:
    """Whether a sentence is part of the quote that stops at ``end``, or follows it in the same paragraph.

    :param before: end of the sentence before it.
    """
    return start < end or (before <= end and not PARAGRAPH.search(text, end, start))


def _whole(question: str, passage: Found, places: Sequence[Place]) -> Place:
    """The first sentence, with what it announces; if it is too long, the excerpt with most of the question's
    words."""
    text, (start, end) = passage.text, places[0]
    if end - start <= MOST_QUOTED:
        return start, _announced(text, places)
    excerpts = [(at, min(at + MOST_QUOTED, end)) for at in range(start, end, MOST_QUOTED // 4)]
    common = _shares(question, passage, excerpts)
    first, last = excerpts[common.index(max(common))]
    return _around(text, start, end, first, last)


def _shares(question: str, passage: Found, places: Sequence[Place]) -> list[float]:
    """Share of the question's words in each place."""
    return question_shares(question, [passage.text[start:end] for start, end in places], passage.language)


def _worths(question: str, passage: Found, places: Sequence[Place]) -> list[float]:
    """Score of each sentence: its cosine to the question plus the weighted share of the question's words;
    without an encoder, that share."""
    common = _shares(question, passage, places)
    if not passage.sentences:
        return common
    cosines = {(start, end): cosine for start, end, cosine in passage.sentences}
    least = min(cosines.values())
    return [cosines.get(place, least) + WORDS * share for place, share in zip(places, common, strict=True)]


def pointed_at(passage: Found) -> Place | None:
    """Start and end of the sentence that most likely has the answer; None if the reader found no spans.

    A sentence's score combines its cosine to the question with the probability of the answer spans that begin
    in the sentence. The end of a span is ignored: it is predicted independently of the start, so a span may
    cross sentences. The cosine protects against text that was injected into a document in order to be quoted.
    Injected text is rarely similar to the question, unless its author knew the question. A sentence whose
    cosine is unknown gets the mean cosine of the others.

    If the sentence ends with a colon, the sentence or list that follows is included. A sentence longer than
    :data:`MOST_QUOTED` is cut to the part around the best span.
    """
    places = split_sentences(passage.text)
    cosines = {(start, end): cosine for start, end, cosine in passage.sentences}
    usual = math.fsum(cosines.values()) / len(cosines) if cosines else 0.0
    worth = {}
    for number, (start, end) in enumerate(places):
        if share := sum(likely for first, _, likely in passage.pointed if start <= first < end):
            worth[number] = math.log(share) + LIKENESS * cosines.get((start, end), usual)
    if not worth:
        return None
    number = max(worth, key=worth.__getitem__)
    start, end = places[number]
    if end - start > MOST_QUOTED:
        first, last, _ = next(run for run in passage.pointed if start <= run[0] < end)
        return _around(passage.text, start, end, first, last)
    return start, _announced(passage.text, places[number:])


def _around(text: str, start: int, end: int, first: int, last: int) -> Place:
    """Start and end of an excerpt of a long sentence: whole words around ``first`` to ``last``."""
    beside = max(0, MOST_QUOTED - (last - first)) // 2
    begin, stop = max(start, first - beside), min(end, last + beside)
    words = [match.span() for match in _WORD.finditer(text, start, end)]
    kept = [(a, b) for a, b in words if begin <= a and b <= stop]
    return (kept[0][0], kept[-1][1]) if kept else (begin, stop)


def _announced(text: str, places: Sequence[Place]) -> int:
    """End of the first sentence, or of the sentence or list that follows if the first ends with a colon."""
    (start, end), *rest = places
    if not rest or not text[start:end].endswith(":"):
        return end
    is_list = ITEM.match(text, rest[0][0]) is not None
    for number, (first, last) in enumerate(rest):
        goes_on = ITEM.match(text, first) or not PARAGRAPH.search(text, end, first)
        if number and not (is_list and goes_on):
            break
        end = last
    return end


# --- contexts -------------------------------------------------------------------------------------------


def parts_of(question: str, context: str) -> list[Found]:
    """The parts of a context that share most words with the question, best first, as passages; at least one,
    at most :data:`~edgeslm.knowledge.index.rerank.DEPTH`."""
    places = split_sentences(context)
    spans = [
        (places[first][0], places[min(first + PART, len(places)) - 1][1])
        for first in range(0, len(places), PART)
    ] or [(0, len(context))]
    texts = [context[start:end] for start, end in spans]
    common = question_shares(question, texts)
    order = sorted(range(len(spans)), key=lambda number: -common[number])[:DEPTH]
    return [
        Found(
            str(number), "", "", texts[number], *spans[number], common[number], 0.0, None, common[number], 0.0
        )
        for number in order
    ]


def quote_guide(text: str) -> Guide:
    """A grammar that allows any consecutive words of a text (``substring_words`` of llguidance).

    The output keeps the whitespace of the text, so it occurs in the text verbatim.
    """
    return Guide("lark_grammar", "start: QUOTE\nQUOTE: %regex " + json.dumps({"substring_words": text}))


def find_quote(written: str, text: str) -> tuple[int, int] | None:
    """Character offsets, in the text, of the quote that the model wrote.

    The result is None if the output is blank or doesn't occur in the text. The output doesn't occur in the
    text if a stop string or ``max_tokens`` cuts a character in half.
    """
    quote = written.strip()
    start = text.find(quote) if quote else -1
    return (start, start + len(quote)) if start >= 0 else None


def find_quotes(written: str, texts: Sequence[str]) -> list[tuple[int, int, int]]:
    """Which sentences of the texts a model copied: index of the text, start and end in characters. Copied
    words stand for their whole sentence; what is in no text is left out."""
    if found := _find_in(written, texts):
        return [found]
    parts = (_find_in(written[start:end], texts) for start, end in split_sentences(written))
    return list(dict.fromkeys(found for found in parts if found is not None))


def _find_in(written: str, texts: Sequence[str]) -> tuple[int, int, int] | None:
    for number, text in enumerate(texts):
        if (place := find_quote(written, text)) is not None:
            sentences = [one for one in split_sentences(text) if one[1] > place[0] and one[0] < place[1]]
            return (number, sentences[0][0], sentences[-1][1]) if sentences else (number, *place)
    return None
