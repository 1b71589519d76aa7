"""Console messages on the pipe between the node and the console process.

The console process faces untrusted browsers, so the node accepts only typed messages from it. The first
message of the console process is ``Listening``, or ``Refused`` if the web server can't start.

The node sends JSON objects of seven kinds (key ``kind``). ``settings`` is the first message and has the
settings of the console. ``tick`` has the figures of the last two seconds (``moment``). ``rows`` has the
requests that changed. ``told`` has the new ``value`` of a ``part`` of the node's data. ``answer`` has the
``result`` of the ``Ask`` with this ``number``. ``text`` has the ``input`` and ``output`` for the ``Look``
with this ``number``. ``taught`` has the ``state`` after the ``Teach`` with this ``number``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edgeslm.ipc.codec import Frames
from edgeslm.ipc.pipe import Refused
from edgeslm.web.wire import Listening

INPUT_BYTES = 32 * 1024
"""Maximum length, in bytes, of an input that the page's form may send."""


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
    """Asks for the input and result of the request in the feed's row ``row``."""

    number: int
    row: int


@dataclass(frozen=True, slots=True)
class Teach:
    """An action of the page that teaches; ``arguments`` are unchecked, as the browser sent them."""

    number: int
    action: str
    arguments: dict[str, Any]


Said = Listening | Refused | Viewers | Ask | Look | Teach

FROM_CONSOLE: Final = Frames(Said, 256 * 1024, most_containers=10_000)
"""Format of messages from the console process to the node. The size limit leaves room for the longest
message, an ``Ask`` whose input is escaped in JSON."""
