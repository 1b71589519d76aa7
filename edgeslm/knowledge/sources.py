"""Which files below the paths somebody named are documents, and by which name each is cited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path


def find_files(paths: Iterable[Path], skipped: Counter[str] | None = None) -> Iterator[tuple[Path, str]]:
    """Each document once, with the source it is cited by; no two have the same source.

    A path that is no folder always comes, even if nothing is there or its kind is unknown: reading it says
    why it can't be used. Of folders come the files of kinds that are read, sorted, without hidden ones and
    without links that lead out.

    :param skipped: counts what was left out, by what it is (``.png``, ``hidden``, ``link``).
    """
    raise NotImplementedError
