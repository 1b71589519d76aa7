"""Collection of the documents of ``grounded_questions``, and searches of it.

Searched and embedded as the product does; no model answers here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection as Anyof
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm_export.evaluate.report_card import load_encoder

from benchmarks.lib.grounded_questions import Question, Span, documents, load_questions
from benchmarks.lib.read_documents import find_answer, read_documents
from benchmarks.lib.second_look import search_twice
from edgeslm.cli.embedding import Embedding
from edgeslm.knowledge.documents.passages import Document, Passage, split
from edgeslm.knowledge.index.collection import BETWEEN, Collection, DocumentOrigin, EncoderTag
from edgeslm.knowledge.index.queries import EVERYTHING
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.knowledge.index.search import Filter, Found
from edgeslm.messages import NORMAL_PRIORITY

Section = tuple[str, str]
"""A document and the titles above a passage."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, what the search found, and where its answers stand in the documents as they are read."""

    question: Question
    found: Sequence[Found]
    answers: Sequence[Span]
    sections: Anyof[Section]
    """Those that an answer stands in."""

    @property
    def is_answerable(self) -> bool:
        return bool(self.answers)

    def is_right(self, passage: Found) -> bool:
        """Whether a passage is of a section that answers the question."""
        return (passage.source, passage.heading) in self.sections


@dataclass(frozen=True, slots=True)
class Ground:
    asked: Sequence[Asked]
    documents: dict[str, Document]


class FoundBefore:
    """Collections as a task sees them, of which everything was found before, by question."""

    def __init__(self, found: Mapping[str, Sequence[Found]]) -> None:
        self._found = found

    async def search(
        self,
        question: str,
        collections: Sequence[str],
        k: int,
        priority: int = NORMAL_PRIORITY,
        *,
        only: Filter = EVERYTHING,
        by_sentence: bool = False,
    ) -> Sequence[Found]:
        return self._found[question][:k]

    async def compare(
        self,
        question: str,
        found: Sequence[Found],
        collections: Sequence[str],
        priority: int = NORMAL_PRIORITY,
    ) -> Sequence[Found]:
        """There are no contexts."""
        return found

    async def compute(self, question: str, collections: Sequence[str], only: Filter = EVERYTHING) -> None:
        """There are no tables."""


def search_all(
    half: str, encoder: Path, cache: Path, *, k: int = DEPTH, reader: Path | None = None
) -> Ground:
    """Every question of a half, searched in one collection of all documents."""
    reads = None if reader is None else load_encoder(reader)
    with tempfile.TemporaryDirectory(prefix="edgeslm-grounded-") as name, Embedding(encoder) as embedding:
        read, answers = read_answers(half, cache, Path(name))
        passages = {source: split(document) for source, document in read.items()}
        with Collection(Path(name) / "all.sqlite", writes=True) as collection:
            collection.use_encoder(EncoderTag(embedding.bundle.digest, str(encoder)))
            for source, document in read.items():
                collection.put(document, passages[source], DocumentOrigin(source, 0, 0.0), embed=embedding)
            asked = []
            for question, spans in answers:
                sections = {
                    (span.document, BETWEEN.join(passage.heading))
                    for span in spans
                    for passage in passages[span.document]
                    if _overlap(passage, span)
                }
                found = search_twice(collection, question.question, embedding, k, reads)
                asked.append(Asked(question, found, spans, sections))
    return Ground(asked, read)


def read_answers(
    half: str, cache: Path, folder: Path
) -> tuple[dict[str, Document], list[tuple[Question, list[Span]]]]:
    """The documents as the product reads them, and the questions of a half with their answers in these."""
    texts = documents(cache)
    read = read_documents(texts, folder)
    return read, [
        (question, [find_answer(read[a.document], texts[a.document], a) for a in question.answers])
        for question in load_questions()
        if question.half == half
    ]


def answering_passages(half: str, cache: Path) -> list[tuple[str, Found]]:
    """Each answerable question with the first passage that answers it. Nothing is searched: figures are 0."""
    with tempfile.TemporaryDirectory(prefix="edgeslm-grounded-") as name:
        read, answers = read_answers(half, cache, Path(name))
    passages = {source: split(document) for source, document in read.items()}
    made = []
    for question, spans in answers:
        for span in spans[:1]:
            passage = next(one for one in passages[span.document] if _overlap(one, span))
            heading = BETWEEN.join(passage.heading)
            where = (str(passage.number), span.document, heading, passage.text, passage.start, passage.end)
            made.append((question.question, Found(*where, 0.0, 0.0, None, 0.0, 0.0)))
    return made


def _overlap(passage: Passage, span: Span) -> bool:
    return passage.start < span.end and span.start < passage.end
