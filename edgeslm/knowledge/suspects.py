"""Files of watched folders that ended the process that read them: they are left out at its next start.

A library that reads PDF may take all memory, crash, or never come to an end, each time anew. Kept by the
parent, which outlives that; knows no pipe.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from edgeslm.knowledge.queries import FileState

TIMES: Final = 2
"""Once may be chance, as where something else took the memory."""
LONGEST_S: Final = 1800.0
"""For one file: ten thousand pages on a board take some of it."""

_Suspect = tuple[str, Path, FileState]
"""A file of a collection as it was: another state is another file."""


class Suspects:
    def __init__(self) -> None:
        self._read: _Suspect | None = None
        self._times: Counter[_Suspect] = Counter()

    def note(self, collection: str, file: tuple[Path, FileState] | None) -> None:
        """What is being read now for a collection; None: nothing. What was before has come to its end."""
        if self._read is not None:
            self._times.pop(self._read, None)
        self._read = None if file is None else (collection, *file)

    def blame(self, times: int = 1) -> Path | None:
        """The file that was being read when the process ended, which counts against it; None if none was."""
        if self._read is None:
            return None
        self._times[self._read] += times
        (_, file, _), self._read = self._read, None
        return file

    def of(self, collection: str) -> dict[Path, FileState]:
        """Those that are left out of it."""
        blamed = [suspect for suspect, times in self._times.items() if times >= TIMES]
        return {file: state for name, file, state in blamed if name == collection}
