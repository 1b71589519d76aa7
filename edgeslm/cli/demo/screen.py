"""Demo output: a table with a row per message, a progress line, a summary."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from edgeslm.cli.demo.traffic import DemoAnswer

SHORT, LONG = 10, 18
"""Widths of the columns with the result and the expected result: of labels, and of other texts."""


class Screen:
    """Writes to standard output; uses colours and a progress line only on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._width = min(120, shutil.get_terminal_size((110, 24)).columns)
        self._progress = False
        self._column = SHORT

    def line(self, text: str) -> None:
        self.clear()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def title(self, text: str) -> None:
        self.line("\n" + self._paint(text, "1"))

    def header(self, expected: str = "true label", column: int = SHORT) -> None:
        self._column = column
        self.line(self._paint(self._row("message", "result", expected, "sure", "ms"), "2"))

    def message(self, text: str, answer: DemoAnswer, expected: str) -> None:
        """Prints a row of the table, green if the result contains ``expected``."""
        sure = f"{answer.confidence:.2f}" if answer.confidence is not None else ""
        row = self._row(text, answer.label, expected, sure, f"{answer.ms:.0f}")
        self.line(self._paint(row, "32" if expected in answer.label else "31"))

    def answer(self, answer: DemoAnswer, *, is_right: bool) -> None:
        """Prints a sentence with its source, green if it is right."""
        source = f"[{answer.source or 'no source'}, {answer.ms:.0f} ms]"
        text = self.cut(answer.label or "(no answer)", len(source) + 6)
        self.line(f"    {self._paint(text, '32' if is_right else '31')} {self._paint(source, '2')}")

    def cut(self, text: str, taken: int) -> str:
        """``text`` as one line, in the room that ``taken`` columns leave."""
        return _cut(text, max(20, self._width - taken))

    def progress(self, text: str) -> None:
        if self._terminal:
            self.clear()
            sys.stdout.write(f"  {text}")
            sys.stdout.flush()
            self._progress = True

    def clear(self) -> None:
        if self._progress:
            sys.stdout.write("\r\x1b[2K")
            self._progress = False

    def summary(self, rows: Sequence[tuple[str, str, str]]) -> None:
        self.title("Counted in this run")
        for what, figure, note in rows:
            self.line(f"  {what:<26}{figure:<22}{note}")

    def _row(self, text: str, label: str, expected: str, sure: str, ms: str) -> str:
        room = max(20, self._width - 2 * self._column - 5 - 6 - 7)
        cells = [(text, room), (label, self._column), (expected, self._column)]
        return (
            "  " + " ".join(f"{_cut(cell, width):<{width}}" for cell, width in cells) + f" {sure:>5} {ms:>6}"
        )

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._terminal else text


def _cut(text: str, room: int) -> str:
    """``text`` as one line of at most ``room`` printable characters."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= room else plain[: room - 1] + "…"
