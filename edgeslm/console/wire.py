"""Console messages on the pipe between the node and the console process.

The console process faces untrusted browsers, so the node accepts only typed messages from it. Its first
message is ``Listening``, or ``Refused`` if the web server can't start.

The node sends JSON objects whose ``kind`` is ``settings`` (sent first), ``tick`` (``moment`` has the figures
of two seconds), ``rows`` (requests that changed), ``told`` (``part`` of the node that changed, and its
``value``), ``answer`` (``number``, ``result``) or ``text`` (``number``, ``input``, ``output``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edgeslm.ipc.codec import Frames, frames_to_child
from edgeslm.ipc.pipe import Refused

INPUT_BYTES = 32 * 1024
"""Longest input that the page's form may send."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The web server listens at ``url``."""

    url: str


@dataclass(frozen=True, slots=True)
class Viewers:
    """Number of connected browsers."""

    count: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request from the page's form; ``options`` are unchecked, as the browser sent them."""

    number: int
    task: str
    input: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """Asks for the input and result of the request in a row."""

    number: int
    row: int


Said = Listening | Refused | Viewers | Ask | Look

TO_CONSOLE: Final = frames_to_child(Any)
FROM_CONSOLE: Final = Frames(Said, 256 * 1024, most_containers=10_000)
"""The longest message is an ``Ask`` whose input is escaped in JSON."""
