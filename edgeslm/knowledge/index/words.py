"""BM25: words of a question against those of passages, by FTS5's index, within a bound of work.

BM25 is dear by the row: FTS5 looks up the length of each passage that it scores, some 2 us. So a question's
rarest words say which passages are scored; what every second passage has tells them apart least.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing

from edgeslm.knowledge.index.database import TOKENIZER

MOST_WORDS = 64
"""Of a question that are looked up; a message that is used as one may be long."""
MOST_CHARACTERS = 20_000
"""Of a question that are read for them."""
MOST_ROWS = 2500
"""Of passages that are scored: 5 ms. A smaller collection is scored whole."""
MOST_COUNTED = 4 * MOST_ROWS
"""What more passages have is as common as all that is so common."""

_WORD = re.compile(r"[^\W_]+(?:[-_./:@+'’]+[^\W_]+)*")
_PARTS = re.compile(r"[\W_]+")
FUNCTION_WORDS = frozenset(
    _PARTS.split(
        "a about all an and any are as at be been but by can could did do does for from had has have "
        "how i if in into is it its just me my not of on or our out should so some than that the then "
        "there these they this those to up was we were what when where which who whom whose why with "
        "would you your"
    )
)
"""What an English question is built of and not about. BM25 takes them for rare where few passages ask
anything. Not ``will``, which MQTT has a thing of that name for."""


def parse_words(question: str) -> tuple[str, ...]:
    """The words of a question, each once. ``mosquitto_pub`` and ``sources.list`` are words, and so are their
    parts: what belongs together counts more, and one part of it something.

    :data:`FUNCTION_WORDS` are left out, unless they stand in capitals (``CAN``, ``IT``) or there are no
    others.
    """
    return _parse(question, FUNCTION_WORDS) or _parse(question, frozenset())


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
    """How many passages have each word, as the index understands it, up to :data:`MOST_COUNTED`; words that
    none has are left out."""
    counts = {word: _hits(db, _quoted(word), MOST_COUNTED) for word in words}
    return {word: hits for word, hits in counts.items() if hits}


def weigh(counts: Mapping[str, int], passages: int) -> dict[str, float]:
    """How much each word tells passages apart: BM25's inverse document frequency, kept above 0."""
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
    """BM25 of the passages that have the words, by slot; more is better.

    :param allowed: by slot, whether its passage may be found; None for all.
    :param heading_word: how much more a word counts in a heading than in the text below it.
    :param most_rows: bounds how many are scored, about, see :func:`choose`.
    """
    statement = "SELECT rowid, -bm25(words, ?, 1.0) FROM words WHERE words MATCH ?"
    if allowed is not None:
        # Those that aren't allowed are passed over before they are scored, so that more may be looked at.
        most_rows = most_rows * len(allowed) // max(1, allowed.count(1))
        db.create_function("is_allowed", 1, allowed.__getitem__, deterministic=True)
        statement += " AND is_allowed(rowid)"
    wanted = choose(db, counts, passages, most_rows)
    return dict(db.execute(statement, (heading_word, wanted))) if wanted else {}


def choose(db: sqlite3.Connection, counts: Mapping[str, int], passages: int, most_rows: int) -> str:
    """The FTS5 expression for the passages that are worth scoring: those with a rare word, and, of words that
    have too many, those with several of them.

    Words of more than half of all passages count nothing with BM25, so they are asked for only when there are
    no others; nor are those that are so common that they weren't counted.
    """
    rarest = sorted(counts, key=lambda word: (counts[word], word))
    most = min(MOST_COUNTED - 1, passages // 2)
    telling = [word for word in rarest if counts[word] <= most] or rarest
    room, choices, common = most_rows, [], []
    for word in telling:
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
        if choices:  # even all of them are in too many
            together = ""
    if together:
        choices.append(f"({together})")
    return " OR ".join(choices)


def shares(texts: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """Which part of the words, by weight, each text has: 0 to 1. Words are alike here as in the index."""
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


def _hits(db: sqlite3.Connection, expression: str, most: int) -> int:
    """How many passages there are, up to ``most``."""
    rows = "SELECT 1 FROM words WHERE words MATCH ? LIMIT ?"
    return int(db.execute(f"SELECT count(*) FROM ({rows})", (expression, most)).fetchone()[0])


def _quoted(word: str) -> str:
    """A string of FTS5's syntax, which nothing in a question can leave."""
    return '"' + word.replace('"', '""') + '"'
