"""Knowledge frames: the messages between a node and the process of its collections. Reads no files.

The process says ``Ready``, or ``Refused`` if a collection can't be used, once; then ``Passages``,
``Computed`` or ``Remembered`` to what it was asked, or ``Failed``. It asks for vectors by ``Embed``, one at a
time.
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
    """A search for passages."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class Compute:
    """A question to tables."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class Remember:
    """A message to be kept in a collection."""

    number: int
    collection: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer to ``Embed``; None where it can't be had now."""

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
    """The answer to ``Compute``; None where tables have none."""

    number: int
    answer: TableAnswer | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A message is on the disk."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Something asked for can't be done."""

    number: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Embed:
    """A request for the vectors of texts, by the collection's encoder."""

    number: int
    collection: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a collection from being up to date, None when that is over."""

    collection: str
    sentence: str | None


Asked = SearchPassages | Compute | Remember | Vectors
Answered = Passages | Computed | Remembered
Said = Ready | Refused | Answered | Failed | Embed | Trouble


class Parent(Protocol):
    """Takes what the process says; from any thread."""

    def send(self, said: Said, /) -> None: ...


TO_COLLECTIONS: Final = frames_to_child(Asked)
FROM_COLLECTIONS: Final = Frames(Said, 8 << 20)
"""A thousand passages, which have some 2,000 characters each."""
