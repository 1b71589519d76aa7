"""Findings of the doctor: level, text and advice, and their output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "bad"]

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``advice`` says what to do; it is empty if there is nothing to do.
    ``commands`` are lines for a shell."""

    subject: str
    level: Level
    text: str
    advice: str = ""
    commands: tuple[str, ...] = ()


def render(findings: Sequence[Finding], colour: bool | None = None) -> str:
    """One line per finding, with its advice below. Terminals get colours unless NO_COLOR is set."""
    if colour is None:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    colours = {"ok": "\x1b[32m", "warn": "\x1b[33m", "bad": "\x1b[31m"}
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        mark = f"{finding.level:<4}"
        if colour:
            mark = f"{colours[finding.level]}{mark}\x1b[0m"
        lines.append(f"{mark}  {finding.subject:<{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"      {'':<{width}}  -> {finding.advice}")
        lines += [f"      {'':<{width}}  {command}" for command in finding.commands]
    count = {level: sum(finding.level == level for finding in findings) for level in colours}
    lines.append(f"{count['ok']} ok, {count['warn']} to look at, {count['bad']} bad")
    return "\n".join(lines)


def megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
