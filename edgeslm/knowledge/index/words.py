"""Word search with BM25 on an FTS5 index; the search time is limited.

Computing the BM25 score of a passage takes about 2 microseconds, since FTS5 looks up the passage's length.
Therefore, only passages with the question's rarest words are scored; common words distinguish passages least.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from typing import Final

from edgeslm.knowledge.documents.function_words import FUNCTION_WORDS
from edgeslm.knowledge.documents.languages import ENGLISH, PLAIN
from edgeslm.knowledge.index.stems import CompoundSplitter, Frequency, stem_text

TOKENIZER: Final = "porter unicode61 remove_diacritics 2"
"""FTS5 tokenizer that ignores English word endings, and accents in any language. ``benchmarks/LOG.md``
compares other tokenizers. Words of other languages are stemmed before (module ``stems``)."""
MOST_WORDS = 64
"""Maximum number of words that are searched, since a question may be a long message."""
MOST_CHARACTERS = 20_000
"""Maximum number of characters of a question that are parsed."""
MOST_ROWS = 2500
"""Maximum number of passages that are scored, which takes 5 ms."""
MOST_COUNTED = 4 * MOST_ROWS
"""Counting the passages that contain a word stops at this number."""

FORMS = "|"
"""Separates the forms of a word whose stem differs between the collection's languages."""

_WORD = re.compile(r"[^\W_]+(?:[-_./:@+'’]+[^\W_]+)*")
_PARTS = re.compile(r"[\W_]+")


def parse_words(
    question: str, languages: Sequence[str] = (PLAIN,), frequency: Frequency | None = None
) -> tuple[str, ...]:
    """Distinct words of a question. Compounds such as ``mosquitto_pub`` and ``sources.list`` are included
    whole and in parts, so that a match of the whole scores higher.

    Function words of English and of ``languages`` are dropped, unless they are in capitals (``CAN``, ``IT``)
    or there are no others. If few passages contain questions, BM25 would treat question words as rare, and
    therefore as important.

    :param languages: see ``read_languages``. Of a word, the stems in all these languages are searched.
    :param frequency: how often a stem occurs in the index, to split compounds such as ``Datenträger``.
    """
    ignored = frozenset().union(*(FUNCTION_WORDS.get(language, ()) for language in (ENGLISH, *languages)))
    words = _parse(question, ignored) or _parse(question, frozenset())
    if tuple(languages) == (PLAIN,):
        return words
    found = dict.fromkeys(
        FORMS.join(dict.fromkeys(_form(word, language) for language in languages)) for word in words
    )
    for language in languages:
        splitter = CompoundSplitter(language, frequency or (lambda stem: 0))
        found.update(dict.fromkeys(part for word in words for part in splitter.parts(word)))
    return tuple(found)[:MOST_WORDS]


def _form(text: str, language: str) -> str:
    """A text with its words in the form in which the index has them."""
    return text if language == PLAIN else stem_text(text, language)


def _parse(question: str, without: AbstractSet[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _WORD.finditer(question, 0, MOST_CHARACTERS):
        word = match[0].casefold()
        if word in without and not (len(word) > 1 and match[0].isupper()):
            continue
        found.setdefault(word)
        found.update(dict.fromkeys(part for part in _PARTS.split(word) if len(part) > 1))
        if len(found) >= MOST_WORDS:
            break
    return tuple(found)[:MOST_WORDS]


def count(db: sqlite3.Connection, words: Sequence[str]) -> dict[str, int]:
    """Number of passages that contain each word, up to :data:`MOST_COUNTED`; words without hits are
    omitted."""
    counts = {word: _hits(db, _quoted(word), MOST_COUNTED) for word in words}
    return {word: hits for word, hits in counts.items() if hits}


def weigh(counts: Mapping[str, int], passages: int) -> dict[str, float]:
    """Inverse document frequency of each word, as in BM25 but always above 0."""
    return {word: math.log1p((passages - hits + 0.5) / (hits + 0.5)) for word, hits in counts.items()}


def score(
    db: sqlite3.Connection,
    counts: Mapping[str, int],
    passages: int,
    *,
    allowed: bytearray | None = None,
    heading_word: float = 1.0,
    most_rows: int = MOST_ROWS,
) -> dict[int, float]:
    """BM25 score of matching passages, by slot; higher is better.

    :param allowed: for each slot, 1 if its passage may be found; None if all may be found.
    :param heading_word: weight of a word in a heading; a word in the text has weight 1.
    :param most_rows: approximate maximum number of passages to score, see :func:`choose`.
    """
    statement = "SELECT rowid, -bm25(words, ?, 1.0) FROM words WHERE words MATCH ?"
    if allowed is not None:
        # Filtered passages are skipped before scoring, so that more can be scanned.
        most_rows = most_rows * len(allowed) // max(1, allowed.count(1))
        db.create_function("is_allowed", 1, allowed.__getitem__, deterministic=True)
        statement += " AND is_allowed(rowid)"
    wanted = choose(db, counts, passages, most_rows)
    return dict(db.execute(statement, (heading_word, wanted))) if wanted else {}


def choose(db: sqlite3.Connection, counts: Mapping[str, int], passages: int, most_rows: int) -> str:
    """FTS5 expression that selects the passages to score: those with a rare word, or with several common
    words.

    A word in more than half of the passages has no weight in BM25. Words without weight, and words too common
    to be counted, are used only if the question has no others.
    """
    rarest = sorted(counts, key=lambda word: (counts[word], word))
    most = min(MOST_COUNTED - 1, passages // 2)
    informative = [word for word in rarest if counts[word] <= most] or rarest
    room, choices, common = most_rows, [], []
    for word in informative:
        if counts[word] <= room:
            choices.append(_quoted(word))
            room -= counts[word]
        else:
            common.append(_quoted(word))
    together = ""
    for word in common:
        together = f"{together} AND {word}" if together else word
        if _hits(db, together, room + 1) <= room:
            break
    else:
        if choices:  # even all common words together match too many passages
            together = ""
    if together:
        choices.append(f"({together})")
    return " OR ".join(choices)


def shares(texts: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """Share (0 to 1) of the words, by weight, that each text contains. Words match regardless of word endings
    and accents, as in the index. Texts in languages other than English must be stemmed."""
    total = sum(weights.values())
    got = [0.0] * len(texts)
    if not total or not texts:
        return got
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute(f"CREATE VIRTUAL TABLE words USING fts5 (text, content = '', tokenize = '{TOKENIZER}')")
        db.execute("BEGIN")
        db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", enumerate(texts))
        for word, weight in weights.items():
            for (row,) in db.execute("SELECT rowid FROM words WHERE words MATCH ?", (_quoted(word),)):
                got[row] += weight / total
    return got


def question_shares(question: str, texts: Sequence[str], language: str = PLAIN) -> list[float]:
    """Share (0 to 1) of the question's words that each text contains.

    :param language: of the texts; :data:`PLAIN` if SQLite stems it.
    """
    words = dict.fromkeys(parse_words(question, (language,)), 1.0)
    return shares([_form(text, language) for text in texts], words)


def _hits(db: sqlite3.Connection, expression: str, most: int) -> int:
    """Number of matching passages, up to ``most``."""
    rows = "SELECT 1 FROM words WHERE words MATCH ? LIMIT ?"
    return int(db.execute(f"SELECT count(*) FROM ({rows})", (expression, most)).fetchone()[0])


def _quoted(word: str) -> str:
    """A word as an FTS5 expression: a string literal, or several for its forms."""
    literals = ['"' + form.replace('"', '""') + '"' for form in word.split(FORMS)]
    return literals[0] if len(literals) == 1 else f"({' OR '.join(literals)})"
