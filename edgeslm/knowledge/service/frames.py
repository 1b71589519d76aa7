"""Knowledge frames: the messages between a node and its knowledge process.

The process first sends ``Ready``, or ``Refused`` if a collection can't be used. It answers requests with
``Passages``, ``Computed`` or ``Remembered``, or with ``Failed``. With ``Embed`` it asks the node for vectors,
one request at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from edgeslm.ipc.codec import Frames, Vector, frames_to_child
from edgeslm.ipc.pipe import Refused
from edgeslm.knowledge.index.queries import Memory, Query, TableAnswer
from edgeslm.knowledge.index.search import Found


@dataclass(frozen=True, slots=True)
class SearchPassages:
    """Search for passages."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class Compute:
    """Ask tables a question."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class Remember:
    """Store a message in a collection."""

    number: int
    collection: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer to ``Embed``; None if vectors are not available now."""

    number: int
    vectors: tuple[Vector, ...] | None


@dataclass(frozen=True, slots=True)
class Ready:
    """The collections are open."""


@dataclass(frozen=True, slots=True)
class Passages:
    """The answer to ``SearchPassages``."""

    number: int
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """The answer to ``Compute``; None if the tables have no answer."""

    number: int
    answer: TableAnswer | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A message is stored on disk."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A request failed."""

    number: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Embed:
    """Ask for the vectors of texts by the collection's encoder."""

    number: int
    collection: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a collection is not up to date; None when it is again."""

    collection: str
    sentence: str | None


NodeMessage = SearchPassages | Compute | Remember | Vectors
AnswerMessage = Passages | Computed | Remembered
WorkerMessage = Ready | Refused | AnswerMessage | Failed | Embed | Trouble


class Parent(Protocol):
    """Sends messages to the node; thread-safe."""

    def send(self, said: WorkerMessage, /) -> None: ...


TO_COLLECTIONS: Final = frames_to_child(NodeMessage)
FROM_COLLECTIONS: Final = Frames(WorkerMessage, 8 << 20)
"""Largest frame, in bytes: a thousand passages of about 2,000 characters."""
