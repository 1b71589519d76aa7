"""Words of a question: which they are, which passages they choose, what share of them a text has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.index.words import (
    MOST_CHARACTERS,
    MOST_WORDS,
    TOKENIZER,
    choose,
    count,
    parse_words,
    score,
    shares,
    weigh,
)


def make_index(passages: Sequence[tuple[str, str]]) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(
        f"CREATE VIRTUAL TABLE words USING fts5 (heading, text, content = '', tokenize = '{TOKENIZER}')"
    )
    rows = ((slot, *passage) for slot, passage in enumerate(passages))
    db.executemany("INSERT INTO words (rowid, heading, text) VALUES (?, ?, ?)", rows)
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    passages = [
        ("Lubrication", "oil the press each week"),
        ("Cleaning", "clean the press with a cloth"),
        ("Password", "mosquitto_passwd writes the password file"),
        ("Übersicht", "Die Maschine läuft; das Öl ist heiß"),
    ]
    with closing(make_index(passages)) as made:
        yield made


def ranked(db: sqlite3.Connection, question: str, **options: float) -> list[int]:
    found = score(db, count(db, parse_words(question)), 4, **options)  # type: ignore[arg-type]
    return sorted(found, key=lambda slot: -found[slot])


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How hot is it?", ("hot",)),
        ("oil, OIL and oil", ("oil",)),
        ("Who are you?", ("who", "are", "you")),
        ("Can I see it on the CAN bus?", ("see", "can", "bus")),
        ("What is a will?", ("will",)),
        ("plug-and-play", ("plug-and-play", "plug", "and", "play")),
        ("mosquitto_pub --will-topic", ("mosquitto_pub", "mosquitto", "pub", "will-topic", "will", "topic")),
        ("/etc/apt/sources.list", ("etc/apt/sources.list", "etc", "apt", "sources", "list")),
        ("don't", ("don't", "don")),
        ("C 5 ü", ("c", "5", "ü")),
        (' "AND" NOT (x*) NEAR/2 ^y col:z ', ("and", "not", "x", "near/2", "near", "y", "col:z", "col")),
        ("?!- __ …", ()),
        ("", ()),
    ],
)
def test_words_of_a_question(question: str, words: tuple[str, ...]) -> None:
    assert parse_words(question) == words


def test_a_question_is_read_as_far_as_a_question_goes() -> None:
    assert parse_words("oil " * 100_000 + "press") == ("oil",)
    assert len(parse_words("a" * 1_000_000)[0]) == MOST_CHARACTERS


def test_of_a_message_as_a_question_so_many_words_are_looked_up() -> None:
    assert len(parse_words(" ".join(f"w{number}" for number in range(10_000)))) == MOST_WORDS


@given(st.text(max_size=60))
def test_no_question_is_syntax(question: str) -> None:
    with closing(make_index([("a", "b")])) as db:
        score(db, count(db, parse_words(question)), 1)
        shares(["a b"], weigh(dict.fromkeys(parse_words(question), 1), 1))


def test_endings_case_and_accents_make_no_difference(db: sqlite3.Connection) -> None:
    assert ranked(db, "oiled PRESSES") == [0, 1]
    assert ranked(db, "ubersicht OL") == [3]


def test_what_belongs_together_is_found_together_and_in_part(db: sqlite3.Connection) -> None:
    assert set(count(db, parse_words("mosquitto_passwd"))) == {"mosquitto_passwd", "mosquitto", "passwd"}
    assert set(count(db, parse_words("mosquitto_pub"))) == {"mosquitto"}


def test_a_word_in_a_heading_counts_as_much_as_it_is_told_to() -> None:
    with closing(make_index([("oil", "one two"), ("one two", "oil oil"), ("", "three"), ("", "four")])) as db:
        assert ranked(db, "oil", heading_word=0.5) == [1, 0]
        assert ranked(db, "oil", heading_word=5.0) == [0, 1]


def test_rare_words_weigh_more_and_none_nothing() -> None:
    weights = weigh({"rare": 1, "common": 60, "everywhere": 100}, 100)
    assert weights["rare"] > weights["common"] > weights["everywhere"] > 0


# --- the bound of work ----------------------------------------------------------------------------------


COMMON = [("", f"{'e' if n % 2 else ''} {'b' if n % 3 else ''} {'c' if n == 7 else ''} d") for n in range(30)]


def choice(question: str, most_rows: int) -> set[int]:
    with closing(make_index(COMMON)) as db:
        counts = count(db, parse_words(question))
        expression = choose(db, counts, len(COMMON), most_rows)
        if not expression:
            return set()
        rows = db.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,))
        return {row for (row,) in rows}


def test_within_the_bound_all_words_are_scored() -> None:
    assert choice("e c", 100) == {n for n in range(30) if n % 2}


def test_rare_words_go_first() -> None:
    assert choice("e c", 5) == {7}


def test_words_of_more_than_half_of_all_passages_are_left_out() -> None:
    assert choice("c b", 100) == {7}
    assert choice("b", 100) == {n for n in range(30) if n % 3}


def test_of_common_words_several_must_be_there() -> None:
    passages = [("", f"{'a' if n % 3 == 0 else ''} {'b' if n % 4 == 0 else ''} {n}") for n in range(60)]
    with closing(make_index(passages)) as db:
        expression = choose(db, count(db, ("a", "b")), 60, 10)
        rows = {row for (row,) in db.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,))}
    assert rows == set(range(0, 60, 12))


def test_a_single_common_word_is_scored_all_the_same() -> None:
    assert choice("e", 5) == {n for n in range(30) if n % 2}


def test_words_that_nobody_has_choose_nothing() -> None:
    assert choice("zebra", 100) == set()


def test_of_few_that_are_allowed_all_are_scored() -> None:
    passages = [("", f"{'a' if n % 3 == 0 else ''} {'b' if n % 4 == 0 else ''} {n}") for n in range(60)]
    allowed = bytearray(n < 10 for n in range(60))
    with closing(make_index(passages)) as db:
        counts = count(db, ("a", "b"))
        assert set(score(db, counts, 60, most_rows=10)) == set(range(0, 60, 12))
        assert set(score(db, counts, 60, most_rows=10, allowed=allowed)) == {0, 3, 4, 6, 8, 9}
        assert score(db, counts, 60, allowed=bytearray(60)) == {}


# --- shares ---------------------------------------------------------------------------------------------


def test_a_text_s_share_of_the_words() -> None:
    texts = ["oiled presses", "the press", "", "nothing"]
    assert shares(texts, {"oil": 3.0, "press": 1.0}) == [1.0, 0.25, 0.0, 0.0]


def test_without_words_or_texts_there_are_no_shares() -> None:
    assert shares(["text"], {}) == [0.0]
    assert shares([], {"oil": 1.0}) == []
