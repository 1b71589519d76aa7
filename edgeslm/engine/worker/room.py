"""Memory check before a request starts, so that a lack of memory is an error instead of a killed process."""

from __future__ import annotations

import contextlib
import math
import resource
import time
from pathlib import Path
from typing import Final, Protocol

from edgeslm.errors import NoMemory
from edgeslm.hardware.board import read_memory

RESERVE_BYTES: Final = 48_000_000
"""Bytes of memory that are kept free for prefill and for other processes."""
GRAMMAR_BYTES: Final = 512_000_000
"""Number of bytes that ``limit_memory`` allows for grammars, activations, and the threads of the one-pass
scorer. The caches and weights are allowed in addition."""
_FRESH_S: Final = 0.1
_AMPLE: Final = 16
"""The memory check is skipped if the last check was less than ``_FRESH_S`` seconds ago and found this many
times the needed memory free, since reading the system files takes time."""

_seen: dict[Path, tuple[float, float]] = {}
"""Maps the root folder of the system files to the time of the last check and the number of bytes that were
free."""


class Caches(Protocol):
    def forget(self) -> None:
        """Drops all caches."""


def check_room(needed: int, what: str, caches: Caches, root: Path = Path("/")) -> None:
    """Checks that memory is free for a piece of work.

    :param needed: bytes that the work needs.
    :param what: name of the work, which becomes the subject of the error message.
    :param caches: caches to drop if memory is short.
    :raises NoMemory: too little memory is free; the message says how much is needed and how much is free.
    """
    now = time.monotonic()
    at, free = _seen.get(root, (-math.inf, 0.0))
    if now - at < _FRESH_S and free >= _AMPLE * needed:
        return
    _seen[root] = now, _free(root)
    if _seen[root][1] >= needed:
        return
    caches.forget()
    if (free := _free(root)) < needed:
        numbers = f"{what} takes {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free"
        raise NoMemory(f"{numbers}; send a shorter text, ask for fewer tokens, or try again later")


def limit_memory(cache_bytes: int, weight_bytes: int, proc: Path = Path("/proc/self")) -> None:
    """Limits the memory of this process, which has loaded its model, to what requests may need. With the
    limit, a runaway grammar ends only this process. Memory-mapped files don't count towards the limit.

    :param cache_bytes: size of a KV cache for the whole context. The memory limit allows three KV caches of
        this size: two for a scoring pass, and one for the call that the pass interrupts.
    :param weight_bytes: size of the model's weights, which the one-pass scorer may load again.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int((proc / "statm").read_text("ascii").split()[5])
        limit = pages * resource.getpagesize() + 3 * cache_bytes + weight_bytes + GRAMMAR_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _free(root: Path) -> float:
    memory = read_memory(root)
    return float("inf") if memory is None else max(0, memory.available - RESERVE_BYTES)
