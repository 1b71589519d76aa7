"""Queries to the process of the collections, and its answers, as plain values. Reads no files."""

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
"""What a table's answer has: cells of text and dates as they are written, numbers as numbers."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """One collection of a node, as its process is told of it.

    ``watch`` are files and folders that it is kept up to date with; ``writes`` says that messages are
    remembered in it. ``encoder`` is None where it is searched by words alone.
    """

    name: str
    path: Path
    encoder: EncoderTag | None = None
    watch: tuple[Path, ...] = ()
    writes: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the node itself writes to it."""
        return self.writes or bool(self.watch)


@dataclass(frozen=True, slots=True)
class Query:
    """A question to some collections, all of them of one encoder, by which ``vector`` is."""

    collections: tuple[str, ...]
    question: str
    k: int = 0
    vector: Vector | None = None
    only: Filter = EVERYTHING


@dataclass(frozen=True, slots=True)
class Memory:
    """A message to remember. The same ``name`` on the same topic is the same message, delivered again."""

    topic: str
    name: str
    text: str
    at: float
    """When it came, seconds since 1970."""
    keep_s: float | None = None
    """For how long it is found; None: until somebody removes it."""

    @property
    def source(self) -> str:
        """As it is cited."""
        return f"{self.topic} {self.name}"


@dataclass(frozen=True, slots=True)
class Citation:
    """A row that an answer comes from. ``quote`` is a passage, at these offsets of the document's text."""

    source: str
    quote: str
    start: int
    end: int
    id: str
    heading: str


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """What a table says."""

    text: str
    """How the question was read, and the values: ``temp_max where date is 2012-07-04: 22.8``."""
    values: tuple[Value, ...]
    source: str
    citations: tuple[Citation, ...]
    """The first rows that it comes from, see ``query.MOST_CITED``."""
    matched: int
    """How many rows it comes from."""


def encode_spec(spec: CollectionSpec) -> str:
    """For the command line."""
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
