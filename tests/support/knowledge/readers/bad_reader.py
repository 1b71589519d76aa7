"""A reading child that misbehaves on files named ``bomb``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from edgeslm.knowledge.readers import limited

_CODE = """
import os, re, sys, time
from edgeslm.knowledge.readers import read_worker
read = read_worker.read_document
def read_document(path, source, **more):
    if path.name.startswith("bomb") and not (path.parent.parent / "mended").exists():
        open(path.parent.parent / "tries", "a").write("x")
        {act}
    return read(path, source, **more)
read_worker.read_document = read_document
read_worker.main()
"""
ReadWith = Callable[[tuple[str, ...]], None]
CRASH = "os._exit(9)"
FREEZE = "re.search('^(a|a)*$', 'a' * 60 + 'b')"
"""Hangs, and holds the interpreter's lock."""
HOARD = "hoard = [0] * 10**9"


def command(act: str) -> tuple[str, ...]:
    """The command of a child that does ``act`` on such files. It counts its runs in the file ``tries`` beside
    the file's folder, and behaves well once ``mended`` exists."""
    return (sys.executable, "-P", "-c", _CODE.format(act=act))


@pytest.fixture
def read_with(monkeypatch: pytest.MonkeyPatch) -> ReadWith:
    """Files are read by another command."""
    return lambda command: monkeypatch.setattr(limited, "COMMAND", command)
