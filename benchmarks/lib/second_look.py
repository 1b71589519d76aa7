"""Search as a node does it for an answer: search, then reranking of the first passages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from edgeslm.cli.embedding import Embedding
from edgeslm.engine.calls import Read
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import Found
from edgeslm.knowledge.index.rerank import readable, rerank, reread, sentences
from edgeslm.knowledge.index.search import search


def search_twice(
    collection: Collection, question: str, embedding: Embedding, k: int, reader: Encoder | None = None
) -> list[Found]:
    """As the node does: what is found by the whole passages is looked at again."""
    return look_again(search(collection, question, k=k, embed=embedding), question, embedding, reader)


def look_again(
    found: Sequence[Found], question: str, embedding: Embedding, reader: Encoder | None = None
) -> list[Found]:
    """By the sentences of each passage, and which of them is nearest to the question; then by a reader."""
    own = sentences(found)
    vectors = iter(embedding([question, *chain.from_iterable(own)]))
    asked = next(vectors)
    ordered = rerank(found, asked, [[next(vectors) for _ in texts] for texts in own])
    if reader is None:
        return ordered
    output = reader.run(Read(question, tuple(readable(ordered))))
    return reread(ordered, output.probabilities, output.places)
