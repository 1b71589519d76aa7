"""Languages of documents: which are supported, and which one a text is written in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from edgeslm.knowledge.documents.function_words import FUNCTION_WORDS

ENGLISH: Final = "en"
PLAIN: Final = ""
"""Stands for the documents whose words SQLite stems: English, and languages without a stemmer."""
STEMMERS: Final[Mapping[str, str]] = {
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hu": "hungarian",
    "it": "italian",
    "lt": "lithuanian",
    "nl": "dutch",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
    "tr": "turkish",
}
"""Names of the Snowball stemmers by ISO 639-1 code. English words are stemmed by SQLite."""
_SAMPLE: Final = 20_000
"""Characters read at the start, in the middle and at the end of a text to detect its language."""
_LEAST_WORDS: Final = 3
"""Minimum number of different function words."""
_LEAST_SHARE: Final = 0.15
"""Minimum share of function words; in running text of the right language, their share is about 0.4."""
_LETTERS: Final = re.compile(r"[^\W\d_]{2,}")
"""Words; single letters are often names of variables."""
_LANGUAGES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    word: tuple(language for language, words in FUNCTION_WORDS.items() if word in words)
    for word in frozenset().union(*FUNCTION_WORDS.values())
}


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of a text's language, by its share of function words; None if there are too few, as in a
    table or a message of a few words. Detects the languages in ``FUNCTION_WORDS``."""
    if len(text) > 3 * _SAMPLE:
        middle = len(text) // 2
        text = f"{text[:_SAMPLE]} {text[middle : middle + _SAMPLE]} {text[-_SAMPLE:]}"
    words = Counter(match[0].casefold() for match in _LETTERS.finditer(text))
    hits = Counter[str]()
    different = Counter[str]()
    for word in words.keys() & _LANGUAGES_OF.keys():
        for language in _LANGUAGES_OF[word]:
            hits[language] += words[word]
            different[language] += 1
    if not hits:
        return None
    language = max(hits, key=lambda one: (hits[one], one == ENGLISH, one))
    is_sure = different[language] >= _LEAST_WORDS and hits[language] >= _LEAST_SHARE * words.total()
    return language if is_sure else None
