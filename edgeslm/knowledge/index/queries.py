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
"""A value in an answer from a table: a number, or a text or date as written in the cell."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """Configuration of one collection.

    ``watch`` lists the files and folders that the collection follows. ``writes`` allows storing messages.
    ``encoder`` is None for word search only. ``language`` is the language of the documents; None detects it.
    """

    name: str
    path: Path
    encoder: EncoderTag | None = None
    watch: tuple[Path, ...] = ()
    writes: bool = False
    language: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the node writes to the collection."""
        return self.writes or bool(self.watch)


@dataclass(frozen=True, slots=True)
class Query:
    """A question to collections that share an encoder. ``vector`` is the question's embedding."""

    collections: tuple[str, ...]
    question: str
    k: int = 0
    vector: Vector | None = None
    only: Filter = EVERYTHING


@dataclass(frozen=True, slots=True)
class Memory:
    """A message to store. ``topic`` and ``name`` identify the message, so a redelivery replaces the stored
    copy."""

    topic: str
    name: str
    text: str
    at: float
    """Arrival time in seconds since 1970."""
    keep_s: float | None = None
    """Lifetime in seconds; None if the message doesn't expire."""

    @property
    def source(self) -> str:
        """Name under which the message is cited."""
        return f"{self.topic} {self.name}"


@dataclass(frozen=True, slots=True)
class Citation:
    """A table row that an answer comes from. ``quote`` is a passage of the row, from ``start`` to ``end`` in
    the document."""

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
    """The interpreted question and the values, as in ``status where order is A7: shipped``."""
    values: tuple[Value, ...]
    source: str
    citations: tuple[Citation, ...]
    """The first rows that the answer comes from: at most ``query.MOST_CITED`` rows."""
    matched: int
    """Number of rows that the answer comes from."""


def encode_spec(spec: CollectionSpec) -> str:
    """Converts a collection's configuration to JSON, for the command line of the knowledge process."""
    encoder = None if spec.encoder is None else [spec.encoder.digest, spec.encoder.path]
    return json.dumps(
        {
            "name": spec.name,
            "path": str(spec.path),
            "encoder": encoder,
            "watch": [str(path) for path in spec.watch],
            "writes": spec.writes,
            "language": spec.language,
        }
    )


def parse_spec(text: str) -> CollectionSpec:
    value: Mapping[str, Any] = json.loads(text)
    encoder = None if value["encoder"] is None else EncoderTag(*value["encoder"])
    watch = tuple(Path(path) for path in value["watch"])
    return CollectionSpec(
        value["name"], Path(value["path"]), encoder, watch, value["writes"], value["language"]
    )
