"""The whole terminal for a live view: alternate screen and single keys; gives it back as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminal:
    """Takes the terminal of standard output, and keys from standard input if that is a terminal.

    Gives the terminal back at the end, at Ctrl-C, at SIGTERM and SIGHUP, and while the process is suspended.
    """

    def __init__(self) -> None:
        self.has_keys = sys.stdin.isatty()
        self.status = 0
        """The exit status: 0 after ``q``, 128 and the signal's number after a signal."""
        self._is_left = False
        self._settings: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Terminal:
        self._take()
        for number in _ENDING:
            self._handlers[number] = signal.signal(number, self._end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(self, *exception: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def draw(self, lines: Sequence[str]) -> None:
        self._write("\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[J")

    def is_left(self) -> bool:
        """Whether the user pressed ``q``, or a signal or the terminal's end says to end."""
        if self.has_keys and not self._is_left and select.select([sys.stdin], [], [], 0)[0]:
            try:
                keys = os.read(sys.stdin.fileno(), 1024)
            except OSError:
                keys = b""
            self._is_left = not keys or not {*b"qQ\x04"}.isdisjoint(keys)  # \x04 is Ctrl-D
        return self._is_left

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_left, self.status = True, 128 + number

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)  # goes on here after SIGCONT
        self._take()

    def _take(self) -> None:
        if self.has_keys:
            self._settings = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._write("\x1b[?1049h\x1b[?25l")

    def _give_back(self) -> None:
        self._write("\x1b[?25h\x1b[?1049l")
        if self.has_keys:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)

    def _write(self, text: str) -> None:
        """Writes to the terminal. One that is gone sends SIGHUP."""
        with contextlib.suppress(OSError):
            sys.stdout.write(text)
            sys.stdout.flush()
