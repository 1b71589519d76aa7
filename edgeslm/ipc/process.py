"""Long-lived child processes that exchange messages over a pipe: start, send, detect exits, stop.

A child gets the descriptor of its pipe end as the first argument, and ends when the pipe is closed. For work
with one order and one answer, use a job (``ipc.job``).
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from edgeslm.ipc.codec import Frames
from edgeslm.ipc.pipe import Link, MessageHandler

MOST_PAUSE_S: Final = 60.0
CALM_S: Final = 300.0
"""After a child has run for more than this number of seconds, the pause before a restart is reset."""


class LossHandler(Protocol):
    """Called when a child has ended; ``how`` is a text such as ``signal 9``."""

    def __call__(self, how: str, /) -> None: ...


class RestartBackoff:
    """Exponential backoff between restarts of a child.

    :param first_s: the first pause; each later pause is twice as long as the last, up to ``MOST_PAUSE_S``.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._pause_s = first_s

    def next_s(self, lived_s: float = 0.0) -> float:
        """Seconds to wait before the next start; ``lived_s`` is how long the last child ran."""
        if lived_s > CALM_S:
            self._pause_s = self._first_s
        pause_s, self._pause_s = self._pause_s, min(MOST_PAUSE_S, 2 * self._pause_s)
        return pause_s


class Child:
    """One child process at a time, on one event loop.

    :param sends: frames to the child.
    :param takes: frames from the child; a child that sends anything else is killed.
    :param on_message: called with each message; if it raises an exception, the child is killed.
    :param on_lost: called when the child has ended on its own or was killed for an invalid message, with a
        text such as ``signal 9`` or ``exit status 1``.
    """

    def __init__(
        self,
        sends: Frames,
        takes: Frames,
        on_message: MessageHandler,
        on_lost: LossHandler,
    ) -> None:
        self._sends = sends
        self._takes = takes
        self._on_message = on_message
        self._on_lost = on_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self.starts = 0
        """Number of processes started so far, which identifies the current process."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_linked(self) -> bool:
        """Whether the pipe is open."""
        return self._link is not None

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait to be sent because the child reads too slowly."""
        return self._link.backlog_bytes if self._link else 0

    async def start(
        self, command: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """:raises OSError: the process can't be started."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            _, link = await loop.create_unix_connection(
                lambda: Link(self._sends, self._takes, self._on_message, self._lost), sock=ours
            )
            try:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), *arguments],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
            except OSError:
                link.close()
                raise
        finally:
            theirs.close()
        self._link = link
        self.starts += 1

    def send(self, message: Any) -> None:
        """Sends a message; does nothing if the pipe is closed.

        :raises FrameError: the message has another type, or is too long.
        """
        if self._link is not None:
            self._link.send(message)

    def close(self) -> None:
        """Closes the pipe, which ends the process; ``on_lost`` isn't called."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def kill(self) -> None:
        """Kills a process that no longer answers; then ``on_lost`` is called."""
        if self._process is not None:
            self._process.kill()

    def bury(self) -> str:
        """Closes the pipe, kills the process if it still runs, and returns how the process ended.

        If the process has already ended, the result is the exit status or signal with which it ended."""
        self.close()
        process, self._process = self._process, None
        if process is None:
            return "stopped"
        process.kill()
        status = process.wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    async def stop(self, grace_s: float) -> bool:
        """Closes the pipe and waits for the process to end. :return: whether the process had to be killed
        after ``grace_s``."""
        self.close()
        process, self._process = self._process, None
        if process is None:
            return False
        try:
            await asyncio.to_thread(process.wait, grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
            return True
        return False

    def _lost(self) -> None:
        is_broken = self._link is not None and self._link.is_broken
        status = self.bury()
        self._on_lost("it sent an invalid message" if is_broken else status)
