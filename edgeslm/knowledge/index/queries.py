"""Queries: requests to the knowledge process and their answers, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from edgeslm.bundle.spans import Run
from edgeslm.ipc.codec import Vector
from edgeslm.knowledge.documents.languages import PLAIN

BETWEEN: Final = " > "
"""Separator between the section titles in a passage's stored heading."""

Value = str | int | float
"""A value in an answer from a table: a number, or a text or date as written in the cell."""


@dataclass(frozen=True, slots=True)
class EncoderTag:
    """The encoder that computed a collection's vectors: digest and last known path of the encoder's
    bundle."""

    digest: str
    path: str


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
class Filter:
    """Selects the documents to search. ``sources`` is a glob pattern such as ``manuals/*.md``. ``since`` and
    ``until`` limit ``DocumentOrigin.mtime``, in seconds since 1970."""

    sources: str | None = None
    since: float | None = None
    until: float | None = None


EVERYTHING: Final = Filter()


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
class Kept:
    """A stored passage. ``start`` and ``end`` are character offsets in the document's text."""

    id: str
    """Hash of source and content, so that an unchanged passage keeps its id when the document is updated."""
    source: str
    heading: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found(Kept):
    """A passage found by a search, with its scores."""

    score: float
    """Combined score, 0 to 1; comparable only among passages of the same question."""
    bm25: float
    """BM25 score; 0 if word search didn't match the passage."""
    cosine: float | None
    """Cosine of the passage's and the question's vector; None if one of the vectors is missing."""
    overlap: float
    """Share (0 to 1) of the question's words that the passage or its heading contains, weighted by rarity."""
    margin: float
    """Difference between this passage's score and the next passage's."""
    collection: str = ""
    """Name of the passage's collection."""
    sentences: tuple[Run, ...] = ()
    """Spans of the passage's first sentences, each with its cosine to the question; empty before
    reranking."""
    read: float | None = None
    """Probability that the passage answers the question; None without a reader."""
    pointed: tuple[Run, ...] = ()
    """Answer spans in ``text``; empty without a reader that finds spans."""
    language: str = PLAIN
    """Language whose stems the passage's words have in the index; :data:`PLAIN` if SQLite stems them."""

    @property
    def sentence(self) -> float | None:
        """Cosine of the sentence nearest to the question; None before reranking."""
        return max((cosine for *_, cosine in self.sentences), default=None)

    @property
    def nearest(self) -> tuple[int, int] | None:
        """Span of the sentence nearest to the question; None before reranking."""
        if not self.sentences:
            return None
        start, end, _ = max(self.sentences, key=itemgetter(2))
        return start, end


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


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """A document in a list. ``modified`` is an ISO 8601 time in UTC."""

    source: str
    title: str
    modified: str
    passages: int


@dataclass(frozen=True, slots=True)
class DocumentList:
    """The newest documents of a collection, the last added first. ``total`` is the number of all."""

    documents: tuple[ListedDocument, ...]
    total: int


@dataclass(frozen=True, slots=True)
class DocumentText:
    """A document's passages with the titles of their sections; ``is_cut`` if the rest is left out."""

    title: str
    text: str
    is_cut: bool


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
