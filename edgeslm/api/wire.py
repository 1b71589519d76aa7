"""API messages on the pipe between the node and the API process.

The API process faces untrusted clients, so the node accepts only typed messages from it. Its first message is
``Listening``, or ``Refused`` if the web server can't start.

The node sends JSON objects (key ``kind``). ``settings`` is the first message. ``offer`` has the ``tasks`` and
models that clients may use, the ``tools`` of MCP clients, and the ``clients`` with the digests of their
tokens. ``chunk`` has a piece of text (``text``), and ``result`` the ``result``, of the ``Submit`` or
``Browse`` with this ``number``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeslm.ipc.codec import Frames
from edgeslm.ipc.pipe import Refused
from edgeslm.web.wire import Listening

BODY_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of an HTTP request's body, in bytes."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A request of ``client``. ``payload`` is its JSON as over MQTT, unchecked; with ``is_named``, the
    payload has an id that makes repeats known."""

    number: int
    client: str
    task: str
    payload: str
    is_named: bool


@dataclass(frozen=True, slots=True)
class Browse:
    """``client`` wants the list of a collection's documents, or the text of the one called ``source``."""

    number: int
    client: str
    collection: str
    source: str | None


@dataclass(frozen=True, slots=True)
class Leave:
    """Nobody waits for the ``Submit`` or ``Browse`` with this number any more."""

    number: int


Said = Listening | Refused | Submit | Browse | Leave

FROM_API: Final = Frames(Said, 2 * BODY_BYTES)
