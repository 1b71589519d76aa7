"""Stems of words in languages other than English, for the word index.

SQLite stems English words alone. Texts in other languages are stemmed here, by Snowball, before they are
indexed. Compounds of the Germanic languages are also indexed by their parts, if the parts are words of the
collection (Koehn and Knight, Empirical Methods for Compound Splitting, EACL 2003).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib import import_module
from typing import Final

from edgeslm.config.extras import missing_extra
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.function_words import FUNCTION_WORDS
from edgeslm.knowledge.documents.languages import STEMMERS

COMPOUNDING: Final[dict[str, tuple[str, ...]]] = {
    "de": ("", "s", "n", "en", "es", "er", "e"),
    "nl": ("", "s", "en", "e", "er"),
    "sv": ("", "s", "e", "o"),
    "da": ("", "s", "e"),
    "no": ("", "s", "e"),
}
"""Letters that may join the parts of a compound, by language."""
SHORTEST_PART: Final = 4
LONGEST_WORD: Final = 60
"""Longer runs of letters are no words."""
LONGEST_COMPOUND: Final = 40
"""Longer words are not split."""
MOST_SPLITS: Final = 100_000
"""Number of places in the words of a document at which splits are tried, some seconds of processor time.
Later words of the document are indexed by their stems alone."""

_LETTERS: Final = re.compile(r"[^\W\d_]+")

Frequency = Callable[[str], int]
"""Function that tells how often a stem occurs, or 0."""


def stem_text(text: str, language: str) -> str:
    """The text with each word replaced by its stem; all else is unchanged."""
    return _LETTERS.sub(lambda match: stem(match[0], language), text)


def stem(word: str, language: str) -> str:
    return _stem(word.casefold(), language)


@lru_cache(maxsize=50_000)
def _stem(word: str, language: str) -> str:
    if len(word) > LONGEST_WORD:
        return word
    stemmed: str = _stemmer(language)(word)
    return stemmed


@cache
def _stemmer(language: str) -> Callable[[str], str]:
    name = STEMMERS[language]
    try:
        import snowballstemmer
    except ModuleNotFoundError as error:
        sentence = missing_extra(error, f"Searching {name.capitalize()} documents")
        raise KnowledgeError(sentence) from None if sentence else error
    # Not ``snowballstemmer.stemmer``, which uses another library where there is one: stems must not differ.
    module = import_module(f"{snowballstemmer.__name__}.{name}_stemmer")
    stem_word: Callable[[str], str] = getattr(module, f"{name.capitalize()}Stemmer")().stemWord
    return stem_word


def count_stems(texts: Iterable[str], language: str) -> Counter[str]:
    return Counter(stem(match[0], language) for text in texts for match in _LETTERS.finditer(text))


class CompoundSplitter:
    """Splits compounds into parts that are words of the collection.

    :param frequency: how often a stem occurs, or 0.
    """

    def __init__(self, language: str, frequency: Frequency) -> None:
        self._language = language
        self._frequency = frequency
        self._letters = COMPOUNDING.get(language, ())
        self._ignored = FUNCTION_WORDS.get(language, frozenset())
        self._known: dict[str, tuple[str, ...]] = {}
        self._tried = 0

    def parts(self, text: str) -> list[str]:
        """Stems of the parts of all compounds in a text, in order."""
        words = (match[0].casefold() for match in _LETTERS.finditer(text))
        return [part for word in words for part in self._split(word)]

    def _split(self, word: str) -> tuple[str, ...]:
        if not self._letters or not 2 * SHORTEST_PART <= len(word) <= LONGEST_COMPOUND:
            return ()
        if word not in self._known:
            self._known[word] = tuple(
                found
                for part in self._halves(word)
                for found in (stem(part, self._language), *self._split(part))
            )
        return self._known[word]

    def _halves(self, word: str) -> tuple[str, ...]:
        """The two most frequent words that the compound consists of; empty if there are none."""
        best: tuple[tuple[int, int], tuple[str, ...]] = ((0, 0), ())
        if self._tried >= MOST_SPLITS:
            return ()
        for border in range(SHORTEST_PART, len(word) - SHORTEST_PART + 1):
            self._tried += 1
            tail = word[border:]
            if tail in self._ignored or not (often := self._frequency(stem(tail, self._language))):
                continue
            for letters in self._letters:
                head = word[: border - len(letters)]
                if len(head) < SHORTEST_PART or head in self._ignored or not word[:border].endswith(letters):
                    continue
                if count := self._frequency(stem(head, self._language)):
                    best = max(best, ((min(often, count), len(tail)), (head, tail)))
        return best[1]
