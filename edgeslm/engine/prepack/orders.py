"""A child process that is given one thing to do: an order as a line of JSON, an answer as a line of JSON.

Its standard input stays open as long as its parent wants it done, so that it ends when the parent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeslm.errors import BundleError


async def carry_out(
    order: str,
    command: Sequence[str],
    what: str,
    *,
    shows: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The child's answer. Cancelled, it ends at once.

    :param what: the subject of a sentence, such as ``/bundles/small can't be prepared``.
    :param shows: it may write to this process's standard error.
    :param identity: as whom it runs, as ``subprocess`` takes it.
    :raises BundleError: it can't be started, or ended without an answer.
    """
    try:
        status, said, words = await _run(order, command, shows, identity or {})
    except OSError as error:
        raise BundleError(f"{what}: {error.strerror}") from None
    last = said.strip().rpartition("\n")[2]
    if status != 0 or not last:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        word = words.strip().rpartition("\n")[2][-300:]
        raise BundleError(f"{what}: its process ended unexpectedly ({how}) {word}")
    answer: dict[str, Any] = json.loads(last)
    return answer


async def _run(
    order: str, command: Sequence[str], shows: bool, identity: Mapping[str, Any]
) -> tuple[int, str, str]:
    """The child's exit status, and what it wrote to its two outputs. :raises OSError: it can't be started."""
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if shows else subprocess.PIPE,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        **identity,
    )

    async def read(stream: asyncio.StreamReader | None) -> str:
        return "" if stream is None else (await stream.read()).decode(errors="replace")

    try:
        if child.stdin is not None:  # stays open: the child ends when its parent does
            child.stdin.write(order.encode() + b"\n")
        said, words = await asyncio.gather(read(child.stdout), read(child.stderr))
        return await child.wait(), said, words
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        if child.stdin is not None:
            child.stdin.close()


def serve_one(answer: Callable[[str], Mapping[str, Any]]) -> None:
    """The child's side: reads the order, says what ``answer`` makes of it."""
    # Ctrl-C and systemd's SIGTERM reach the whole group: the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    os.umask(0o077)
    order = sys.stdin.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(json.dumps(answer(order)))  # noqa: T201


def give_way(*, wholly: bool = True) -> None:
    """Whoever else wants a processor gets it, and the kernel, short of memory, ends this process first.

    :param wholly: it can wait for as long as others compute; else it gets a small part of the time.
    """
    with contextlib.suppress(OSError):  # a unit may forbid any of them
        os.nice(19 if wholly else 5)
    if wholly:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_parent() -> None:
    while os.read(0, 4096):  # the file itself: a reader of Python's would hold a lock at exit
        pass
    os._exit(1)
