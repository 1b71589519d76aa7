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

from benchmarks.lib.grounded_questions import Question, Span
from benchmarks.lib.question_sets import read_set
from benchmarks.lib.second_look import search_twice
from edgeslm.cli.embedding import Embedding
from edgeslm.knowledge.documents.passages import Document, Passage, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import BETWEEN, EVERYTHING, EncoderTag, Filter, Found
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.messages import NORMAL_PRIORITY
from edgeslm.tasks.quoting import quoted

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

    def has_answer(self, source: str, start: int, end: int) -> bool:
        """Whether these characters of a document are a part of an answer."""
        return any(source == one.document and start < one.end and one.start < end for one in self.answers)

    def is_quoted(self, passage: Found) -> bool:
        """Whether the quote of a passage has a part of an answer."""
        return any(
            self.has_answer(passage.source, passage.start + start, passage.start + end)
            for start, end in quoted(self.question.question, passage)
        )

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
    half: str,
    encoder: Path,
    cache: Path,
    *,
    k: int = DEPTH,
    reader: Path | None = None,
    questions: str = "manuals",
) -> Ground:
    """Every question of a half of a set, searched in one collection of all documents of the set."""
    reads = None if reader is None else load_encoder(reader)
    with tempfile.TemporaryDirectory(prefix="edgeslm-grounded-") as name, Embedding(encoder) as embedding:
        read, answers = read_set(questions, half, cache, Path(name))
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


def answering_passages(half: str, cache: Path, name: str = "manuals") -> list[tuple[str, Found]]:
    """Each answerable question of the set ``name`` with the first passage that answers it. Nothing is
    searched: figures are 0."""
    with tempfile.TemporaryDirectory(prefix="edgeslm-grounded-") as folder:
        read, answers = read_set(name, half, cache, Path(folder))
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
