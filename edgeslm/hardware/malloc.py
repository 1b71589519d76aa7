"""malloc settings of glibc: the daemon returns memory to the system after a burst or a large message."""

from __future__ import annotations

import contextlib
import ctypes


def give_back_large_buffers() -> None:
    """Sets malloc's mmap threshold to a constant. By default, glibc raises the threshold: after one message
    of 10 MB, it takes buffers for later messages from the heap, which then stays large (mallopt(3),
    M_MMAP_THRESHOLD)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)


def give_back_free_memory() -> None:
    """Returns freed pages inside the heap to the system (malloc_trim(3)); takes under a millisecond."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
