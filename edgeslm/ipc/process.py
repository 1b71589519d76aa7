"""Long-lived child processes at the other end of a pipe: started, told things, noticed when they end.

A child's command line begins with the descriptor of its end; it ends when that is closed. What it may say and
be told is handed in. Work that is one order and one answer is a job (``ipc.job``).
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
"""A child that lived so long didn't end of what it does first: the pauses begin anew."""


class LossHandler(Protocol):
    """Is told how a child ended, such as ``signal 9``."""

    def __call__(self, how: str, /) -> None: ...


class RestartBackoff:
    """Exponential backoff between the starts of a child that ends again and again.

    :param first_s: the first pause; each is twice as long as the one before, up to ``MOST_PAUSE_S``.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._pause_s = first_s

    def next_s(self, lived_s: float = 0.0) -> float:
        """Seconds to wait before the next start; the child that ended did its work for ``lived_s``."""
        if lived_s > CALM_S:
            self._pause_s = self._first_s
        pause_s, self._pause_s = self._pause_s, min(MOST_PAUSE_S, 2 * self._pause_s)
        return pause_s


class Child:
    """One process at a time; lives on one event loop.

    :param sends: what it is told. :param takes: what it may say; one that says something else is killed.
    :param on_message: gets each message that it sends; one is killed too if that raises.
    :param on_lost: called once it has ended by itself or was killed for what it said, with how (``signal 9``,
        ``exit status 1``).
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
        """How many processes there were, which tells one from the next."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_linked(self) -> bool:
        """Whether the pipe is open."""
        return self._link is not None

    @property
    def backlog_bytes(self) -> int:
        """What it has not taken yet of what it was told."""
        return self._link.backlog_bytes if self._link else 0

    async def start(
        self, command: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """:raises OSError: it can't be started."""
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
        """Nothing if the pipe is closed.

        :raises FrameError: it is no message, or too long.
        """
        if self._link is not None:
            self._link.send(message)

    def close(self) -> None:
        """Closes the pipe, which ends the process; ``on_lost`` isn't called any more."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def kill(self) -> None:
        """Ends a process that no longer answers; ``on_lost`` follows."""
        if self._process is not None:
            self._process.kill()

    def bury(self) -> str:
        """Closes the pipe, reaps the process and says how it ended. One that still lives is killed, so this
        does not wait; one that is about to end keeps its own status."""
        self.close()
        process, self._process = self._process, None
        if process is None:
            return "stopped"
        process.kill()
        status = process.wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    async def stop(self, grace_s: float) -> bool:
        """Closes the pipe and waits for the end. :return: whether that took longer, so that it was killed."""
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
        self._on_lost("it sent what is no message" if is_broken else status)
