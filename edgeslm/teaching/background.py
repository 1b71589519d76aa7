"""Runs a command in the background: ``python -m edgeslm.teaching.background BYTES PROGRAM ARGUMENT...``.

The command takes only idle processors, half of them, and at most so many bytes of memory. It ends with the
process that started it, and is the first that the kernel ends when memory is short. This is a separate step,
since a process with threads must not run Python between fork and exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from edgeslm.ipc.job import yield_processors

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Becomes the command. :raises OSError: it can't be run."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this has ended")
    yield_processors()
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cores[len(cores) // 2 :])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    memory_bytes, *command = arguments
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(memory_bytes) if hard == resource.RLIM_INFINITY else min(int(memory_bytes), hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
