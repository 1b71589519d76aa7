"""What a command's user types, and streams that are terminals."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TextIO

import pytest


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Gives the command its standard input."""

    def types(text: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))

    return types


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[TextIO], None]:
    """Makes a stream a terminal. To be called in the test: pytest exchanges the streams after fixtures."""
    return lambda stream: monkeypatch.setattr(stream, "isatty", lambda: True)
