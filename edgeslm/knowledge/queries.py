"""What crosses the pipe to the process of the collections: plain values, which pickle. Reads no files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm.knowledge.collection import EncoderTag
from edgeslm.knowledge.search import Filter

EVERYTHING: Final = Filter()


@dataclass(frozen=True, slots=True)
class Shelf:
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
    vector: Sequence[float] | None = None
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


def encode_shelf(shelf: Shelf) -> str:
    """For the command line."""
    encoder = None if shelf.encoder is None else [shelf.encoder.digest, shelf.encoder.path]
    return json.dumps(
        {
            "name": shelf.name,
            "path": str(shelf.path),
            "encoder": encoder,
            "watch": [str(path) for path in shelf.watch],
            "writes": shelf.writes,
        }
    )


def parse_shelf(text: str) -> Shelf:
    value: Mapping[str, Any] = json.loads(text)
    encoder = None if value["encoder"] is None else EncoderTag(*value["encoder"])
    watch = tuple(Path(path) for path in value["watch"])
    return Shelf(value["name"], Path(value["path"]), encoder, watch, value["writes"])
