"""Queries: requests to the knowledge process and their answers, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm.ipc.codec import Vector
from edgeslm.knowledge.index.collection import EncoderTag
from edgeslm.knowledge.index.search import Filter

EVERYTHING: Final = Filter()


Value = str | int | float
"""A value in a table's answer: numbers as numbers, texts and dates as written."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """Configuration of one collection.

    ``watch``: files and folders to keep it up to date with. ``writes``: messages are remembered in it.
    ``encoder``: None for word search only.
    """

    name: str
    path: Path
    encoder: EncoderTag | None = None
    watch: tuple[Path, ...] = ()
    writes: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the node writes to it."""
        return self.writes or bool(self.watch)


@dataclass(frozen=True, slots=True)
class Query:
    """A question to collections that share an encoder; ``vector`` is the question's embedding."""

    collections: tuple[str, ...]
    question: str
    k: int = 0
    vector: Vector | None = None
    only: Filter = EVERYTHING


@dataclass(frozen=True, slots=True)
class Memory:
    """A message to remember. Topic and ``name`` identify it, so a redelivery replaces it."""

    topic: str
    name: str
    text: str
    at: float
    """Time of arrival, in seconds since 1970."""
    keep_s: float | None = None
    """Lifetime in seconds; None for no expiry."""

    @property
    def source(self) -> str:
        """The name it is cited by."""
        return f"{self.topic} {self.name}"


@dataclass(frozen=True, slots=True)
class Citation:
    """A row that an answer comes from. ``quote`` is a passage at these offsets of the document."""

    source: str
    quote: str
    start: int
    end: int
    id: str
    heading: str


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """An answer computed from a table."""

    text: str
    """The interpreted question and the values: ``temp_max where date is 2012-07-04: 22.8``."""
    values: tuple[Value, ...]
    source: str
    citations: tuple[Citation, ...]
    """The first rows it comes from, see ``query.MOST_CITED``."""
    matched: int
    """Number of rows it comes from."""


def encode_spec(spec: CollectionSpec) -> str:
    """JSON for the command line."""
    encoder = None if spec.encoder is None else [spec.encoder.digest, spec.encoder.path]
    return json.dumps(
        {
            "name": spec.name,
            "path": str(spec.path),
            "encoder": encoder,
            "watch": [str(path) for path in spec.watch],
            "writes": spec.writes,
        }
    )


def parse_spec(text: str) -> CollectionSpec:
    value: Mapping[str, Any] = json.loads(text)
    encoder = None if value["encoder"] is None else EncoderTag(*value["encoder"])
    watch = tuple(Path(path) for path in value["watch"])
    return CollectionSpec(value["name"], Path(value["path"]), encoder, watch, value["writes"])
