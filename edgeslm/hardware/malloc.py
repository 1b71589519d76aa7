"""glibc's malloc settings, so that the daemon gives back memory after a burst or a large message."""

from __future__ import annotations

import contextlib
import ctypes


def give_back_large_buffers() -> None:
    """Keeps glibc from raising its threshold for memory maps: after one message of 10 MB the next ones would
    come from the heap, which never shrinks below them (mallopt(3), M_MMAP_THRESHOLD)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)


def give_back_free_memory() -> None:
    """glibc keeps what was freed between what is in use (malloc_trim(3)); less than a millisecond."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
