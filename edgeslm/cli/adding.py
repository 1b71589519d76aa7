"""Progress of ``knowledge add``: the current file, and how much of it is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.screen import ProgressLine, print_error
from edgeslm.knowledge.index.collection import Embed
from edgeslm.knowledge.service.intake import IntakeListener


class AddingProgress(IntakeListener):
    """Shows the progress of adding files, and reports files that can't be read.

    ``files``: number of files to add.
    """

    def __init__(self, progress: ProgressLine, files: int) -> None:
        self._progress = progress
        self._files = files
        self._number = 0
        self._source = ""
        self._embedded = 0
        self._missing = 0

    def on_file(self, source: str) -> None:
        self._progress.show(self._number, self._files, source)
        self._number += 1
        self._source = source

    def on_part(self, source: str, part: str) -> None:
        self._progress.show(self._number - 1, self._files, f"{source}, {part}")

    def on_broken(self, path: Path, sentence: str) -> None:
        self._progress.clear()
        print_error(sentence)

    def begin_missing(self, passages: int) -> None:
        """Called before stored passages without a vector are embedded; ``passages`` is the number of them."""
        self._embedded, self._missing = 0, passages

    def embed(self, embedding: Embed, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        done, of = self._embedded, self._missing
        if of:
            self._progress.show(done, of, f"embedding passage {done:,} of {of:,}")
        else:
            self._progress.show(self._number - 1, self._files, f"{self._source}, passage {done:,}")
        self._embedded += len(texts)
        return embedding(texts)
