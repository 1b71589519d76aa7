"""Knowledge frames: the messages between a node and its knowledge process.

The process first sends ``Ready``, or ``Refused`` if a collection can't be used. The process answers requests
with ``Passages``, ``Computed``, ``Remembered`` or ``Browsed``, or with ``Failed``. With ``Embed``, the
process requests vectors from the node, one request at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from edgeslm.ipc.codec import Frames, Vector, frames_to_child
from edgeslm.ipc.pipe import Refused
from edgeslm.knowledge.index.queries import DocumentList, DocumentText, Found, Memory, Query, TableAnswer


@dataclass(frozen=True, slots=True)
class SearchPassages:
    """Request to search for passages."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class Compute:
    """Request to answer a question from tables."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class Remember:
    """Request to store a message in a collection."""

    number: int
    collection: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class Browse:
    """Request for the list of a collection's documents, or for the text of the one called ``source``."""

    number: int
    collection: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer to ``Embed``; ``vectors`` is None if the encoder isn't available now."""

    number: int
    vectors: tuple[Vector, ...] | None


@dataclass(frozen=True, slots=True)
class Ready:
    """Reports that the collections are open."""


@dataclass(frozen=True, slots=True)
class Passages:
    """The answer to ``SearchPassages``."""

    number: int
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """The answer to ``Compute``; ``answer`` is None if the tables have no answer."""

    number: int
    answer: TableAnswer | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """The answer to ``Remember``: the message is stored on disk."""

    number: int


@dataclass(frozen=True, slots=True)
class Browsed:
    """The answer to ``Browse``; None if there is no such document."""

    number: int
    found: DocumentList | DocumentText | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer to a request that failed, with the reason."""

    number: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Embed:
    """Request to embed texts with the collection's encoder."""

    number: int
    collection: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a collection is not up to date; ``sentence`` is None once the collection is up to date again."""

    collection: str
    sentence: str | None


NodeMessage = SearchPassages | Compute | Remember | Browse | Vectors
AnswerMessage = Passages | Computed | Remembered | Browsed
WorkerMessage = Ready | Refused | AnswerMessage | Failed | Embed | Trouble


class Parent(Protocol):
    """Sends messages to the node; thread-safe."""

    def send(self, said: WorkerMessage, /) -> None: ...


TO_COLLECTIONS: Final = frames_to_child(NodeMessage)
FROM_COLLECTIONS: Final = Frames(WorkerMessage, 8 << 20)
"""Codec for messages from the knowledge process. A message has at most 8 MiB, enough for a thousand passages
of about 2,000 characters."""
