"""Console messages: what the node and its console say to each other over the pipe.

The console's process talks to strangers: what it sends are typed messages, and nothing else gets through. It
says ``Listening``, or ``Refused`` if there can be no web server. The node's messages are objects of JSON with
``kind``: ``settings`` (first), ``tick`` (``moment``: figures of the last two seconds), ``rows`` (requests
that changed), ``told`` (``part`` of the node that changed, and its ``value``), ``answer`` (``number``,
``result``), ``text`` (``number``, ``input``, ``output``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edgeslm.ipc.codec import Frames, frames_to_child
from edgeslm.ipc.pipe import Refused

INPUT_BYTES = 32 * 1024
"""The longest text that the form takes."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The web server is there."""

    url: str


@dataclass(frozen=True, slots=True)
class Viewers:
    """How many browsers look on."""

    count: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the form; ``options`` hold whatever the browser sent."""

    number: int
    task: str
    input: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """A wish for the texts of a row."""

    number: int
    row: int


Said = Listening | Refused | Viewers | Ask | Look

TO_CONSOLE: Final = frames_to_child(Any)
FROM_CONSOLE: Final = Frames(Said, 256 * 1024, most_containers=10_000)
"""The longest is one ``Ask``, escaped."""
