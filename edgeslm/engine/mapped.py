"""Pages of mapped files that a process has read and won't soon need: given back."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

_DONTNEED: Final = 4
"""madvise(2), MADV_DONTNEED."""
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (?:\S+ +){4}(.*)")
"""The line that a mapping begins with (proc_pid_smaps(5)); the others are its figures."""


def give_back_pages(files: Collection[Path]) -> None:
    """Takes the pages of ``files`` out of this process's memory, where it has written to none of them; what
    is looked at again comes from the system's cache, or from the disk."""
    names = {str(file.resolve()) for file in files}
    with contextlib.suppress(OSError, AttributeError):  # another system or C library
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start, end in _unwritten(names):
            madvise(start, end - start, _DONTNEED)


def _unwritten(names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Bounds of the mappings of files by their names; a page that was written to is the process's own."""
    bounds: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := _MAPPING.fullmatch(line):
            bounds = (int(mapping[1], 16), int(mapping[2], 16)) if mapping[3] in names else None
        elif bounds is not None and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield bounds
