"""Support check: decides by comparing words, without a model, whether a source text supports a sentence.

A sentence is supported if the source contains all numbers and names of the sentence, and most of the
sentence's other content words. Each number must be near one of the sentence's other words in the source. The
measure is word precision against the source, whereas ROUGE (Lin, 2004) compares with a reference summary. The
check is strict about names and numbers, because small models most often get these wrong; swapped names and
numbers are typical false claims (Kryscinski et al., 2020, section 3.1). The check ignores word order, so "B
calls A" supports "A calls B".
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from edgeslm.knowledge.documents.function_words import FUNCTION_WORDS as FUNCTION_WORDS_IN
from edgeslm.knowledge.documents.languages import STEMMERS, detect_language
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.stems import stem

LEAST_SHARE: Final = 0.7
"""Minimum share of a sentence's content words that the source must contain."""
NEAR_WORDS: Final = 12
"""Maximum distance in the source, in words, between a number and another word of the sentence."""
STEM_CHARACTERS: Final = 6
"""Length to which stems are cut, so that "configure" and "configuration" match."""

_SPACE: Final = re.compile(r"\s+")
FUNCTION_WORDS: Final = frozenset(
    _SPACE.split(
        "a about above after again all also an and any are as at be because been before being below "
        "between both but by can could did do does doing done down during each either else ever few for "
        "from further get gets had has have having he her here hers him his how however i if in into is "
        "it its itself just less like many may me might more most much must my neither nor now of off on "
        "once one only onto or other others our out over own per quite rather same several shall she "
        "should since so some such than that the their them then there these they this those though "
        "through thus to too toward under until up upon us use used uses using various very via was we "
        "were what when where whether which while who whom whose why will with within would you your"
    )
)
"""English function words. Those of other languages are used for texts in which the language is detected."""
_NEGATIONS: Final = frozenset({"no", "not", "never", "none", "nothing", "nobody", "without", "cannot"})
_NEGATIONS_IN: Final = {
    "de": frozenset(
        {"nicht", "nie", "niemals", "kein", "keine", "keinem", "keinen", "keiner", "nichts", "ohne"}
    ),
    "es": frozenset({"no", "nunca", "jamás", "nada", "ningún", "ninguna", "ninguno", "sin", "tampoco"}),
}
_NUMBERS: Final = {
    word: str(number)
    for number, word in enumerate(
        _SPACE.split("two three four five six seven eight nine ten eleven twelve"), start=2
    )
}
_VOWEL: Final = re.compile(r"[aeiouy]")
_WORD: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts without spaces: each character is a word
    r"|\d++(?:[.,:]\d++)*+(?![^\W\d_])"
    r"|[^\W_]+(?:['’\-_./:@+][^\W_]+)*"
)
_NUMBER: Final = re.compile(r"(\d++(?:[.,:]\d++)*+)([^\W\d_]*)")
"""Matches a number and its unit."""
_GROUPED: Final = re.compile(r"\b\d{1,3}(?:,\d{3})+\b")
_PARTS: Final = re.compile(r"[\-_./:@+]")
_COMPOUND: Final = re.compile(r"[-/]")


@dataclass(frozen=True, slots=True)
class Support:
    """How far sources support a sentence; the object is true if the support is sufficient.

    ``sources``: indexes of the supporting sources, best first. ``share``: share of the sentence's content
    words that the supporting sources contain. ``missing``: content words of the sentence that the supporting
    sources don't contain.
    """

    supported: bool
    sources: tuple[int, ...]
    share: float
    missing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.supported


@dataclass(frozen=True, slots=True)
class _Source:
    """A source text.

    ``places``: word positions of each key (normalised word). ``starts``: position of each sentence's first
    word.
    """

    places: dict[str, array[int]]
    starts: array[int]


class Evidence:
    """Source texts, indexed once to check many sentences."""

    def __init__(self, sources: Iterable[str] = ()) -> None:
        self._sources: list[_Source] = []
        for source in sources:
            self.add(source)

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, source: str) -> None:
        read = _Source({}, array("L"))
        count = 0
        for sentence in _read(source):
            read.starts.append(count)
            for word in sentence:
                for key in word.keys:
                    read.places.setdefault(key, array("L")).append(count)
                count += 1
        self._sources.append(read)

    def support(self, sentence: str, *, together: int = 1, among: Sequence[int] | None = None) -> Support:
        """The support of a sentence by the best source, or by up to ``together`` sources jointly.

        A sentence without content words is not supported.

        :param among: indexes of the sources to use, in the order in which they were added; None for all.
        """
        among = range(len(self)) if among is None else among
        words = [word for part in _read(sentence) for word in part if word.is_content]
        left, chosen = words, list[int]()
        while left and len(chosen) < min(together, len(among)):
            others = [number for number in among if number not in chosen]
            best = max(others, key=lambda number: (self._fit(left, words, number), -number))
            after = [word for word in left if not self._has(best, word, words)]
            if len(after) == len(left):
                break
            left = after
            chosen.append(best)
        share = 1 - len(left) / len(words) if words else 0.0
        is_enough = share >= LEAST_SHARE and not any(word.must_be_there for word in left)
        if all(word.is_bound for word in words):  # "24." is in many texts
            is_enough = False
        if is_enough and any(self._denies(number, words) for number in chosen):
            is_enough = False
        return Support(is_enough, tuple(chosen), share, tuple(word.text for word in left))

    def _denies(self, number: int, words: Sequence[_Word]) -> bool:
        """Whether the source negates a sentence that contains no negation."""
        source = self._sources[number]
        if "not" not in source.places or any("not" in word.needs for word in words):
            return False
        counts = Counter(
            bisect_right(source.starts, place)
            for place in {
                place for word in words for key in word.needs for place in source.places.get(key, ())
            }
        )
        most = max(counts.values(), default=0)
        nots = {bisect_right(source.starts, place) for place in source.places["not"]}
        return 2 * most >= len(words) and all(part in nots for part, count in counts.items() if count == most)

    def _fit(self, left: Sequence[_Word], words: Sequence[_Word], number: int) -> float:
        """Score of a source: how many words of ``left`` it contains; a required word outweighs all others."""
        found = [word for word in left if self._has(number, word, words)]
        return sum(len(words) if word.must_be_there else 1 for word in found)

    def _has(self, number: int, word: _Word, words: Sequence[_Word]) -> bool:
        source = self._sources[number].places
        if not all(key in source for key in word.needs):
            return False
        others = [key for other in words if not other.is_bound for key in other.needs]
        if not word.is_bound or not others:
            return True
        near = [places for key in others if (places := source.get(key)) is not None]
        return any(_has_near(places, here) for here in source[word.needs[0]] for places in near)


def _has_near(places: array[int], here: int) -> bool:
    next_one = bisect_left(places, here - NEAR_WORDS)
    return next_one < len(places) and places[next_one] <= here + NEAR_WORDS


def content_words(text: str) -> list[str]:
    """Content words of a text, normalised: lower case, without endings. Function words and endings are those
    of the text's language, if it can be detected; otherwise they are English."""
    return [word.needs[0] for part in _read(text) for word in part if word.is_content]


@dataclass(frozen=True, slots=True)
class _Word:
    """A normalised word. ``keys``: keys under which a source indexes the word.

    ``needs``: keys that a source must contain in order to support the word.
    """

    text: str
    keys: tuple[str, ...]
    needs: tuple[str, ...]
    is_content: bool = True
    is_bound: bool = False
    """Whether the word means little alone, like a number or a negation."""
    must_be_there: bool = False


def _read(text: str) -> Iterator[list[_Word]]:
    """Yields the words of each sentence of ``text``."""
    language = detect_language(text)
    language = language if language in STEMMERS else None
    for start, end in split_sentences(text):
        found = [match[0] for match in _WORD.finditer(text, start, end)]
        yield [_word(word, place == 0, language) for place, word in enumerate(found)]


@lru_cache(maxsize=8192)
def _word(text: str, is_first: bool, language: str | None = None) -> _Word:
    """Normalises a word.

    :param is_first: whether the word begins a sentence, where a capital letter doesn't mark a name.
    :param language: language with a Snowball stemmer; None for English.
    """
    plain = text.casefold().replace("’", "'")
    negations = _NEGATIONS if language is None else _NEGATIONS_IN.get(language, frozenset())
    if plain in negations or (language is None and plain.endswith("n't")):
        return _Word(text, ("not",), ("not",), is_bound=True, must_be_there=True)
    if number := _NUMBER.fullmatch(_NUMBERS.get(plain, plain)):
        figure = _GROUPED.sub(lambda group: group[0].replace(",", ""), number[1])
        keys = (figure, *_keys(number[2])) if number[2] else (figure,)
        return _Word(text, keys, (figure,), is_bound=True, must_be_there=True)
    plain = plain.removesuffix("'s").removesuffix("'")
    wanted = [part for part in _COMPOUND.split(plain) if part] or [plain]
    parts = [plain, *wanted, *(part for part in _PARTS.split(plain) if part)]
    known = dict.fromkeys(key for part in parts for key in _keys(part))
    if language is not None:
        known.update(dict.fromkeys(_stem_in(part, language) for part in parts))
    function_words = FUNCTION_WORDS if language is None else FUNCTION_WORDS_IN.get(language, frozenset())
    # SmolLM2, GPU and sources.list are names anywhere, Berlin only inside a sentence.
    is_odd = not text[1:].islower() and re.search(r"[A-Z\d_@.:+]", text[1:]) is not None
    marks_names = not is_first and language != "de"  # German nouns have capitals, too
    is_name = plain not in function_words and (is_odd or (text[0].isupper() and marks_names))
    is_content = is_name or not (plain in function_words or (len(plain) == 1 and plain.isascii()))
    needs = tuple(_name(part) if is_name else _stem_in(part, language) for part in wanted)
    return _Word(text, tuple(known), needs, is_content, must_be_there=is_name)


def _keys(plain: str) -> tuple[str, str]:
    return _stem(plain), _name(plain)


def _name(plain: str) -> str:
    """Normalised name: only a plural ending is removed."""
    return "=" + plain.removesuffix("s")


def _stem_in(plain: str, language: str | None) -> str:
    return _stem(plain) if language is None else stem(plain, language)[:STEM_CHARACTERS]


def _stem(plain: str) -> str:
    """Stem of a word, by a light stemmer (Harman 1991; Porter 1980, step 1b)."""
    if not plain.isalpha() or not plain.isascii():
        return plain
    if plain.endswith("s") and not plain.endswith(("ss", "us", "is")) and len(plain) > 3:
        plain = plain[:-3] + "y" if plain.endswith("ies") and len(plain) > 4 else plain[:-1]
    for ending in ("ing", "ed", "ly"):
        stem = plain.removesuffix(ending)
        if stem != plain and len(stem) > 1 and _VOWEL.search(stem):
            plain = stem
            break
    plain = plain.removesuffix("e") if len(plain) > 2 else plain
    if len(plain) > 3 and plain[-1] == plain[-2]:
        plain = plain[:-1]
    return plain[:STEM_CHARACTERS]
