"""Format of passages and citations in results, shared by search tasks, answer tasks and other nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.grounding import most_like, with_heading
from edgeslm.tasks.support import Evidence

if TYPE_CHECKING:
    from edgeslm.knowledge.index.queries import Found

PASSAGE_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "source": {"type": "string"},
        "heading": {"type": "string"},
        "text": {"type": "string"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "start": {"type": "integer", "minimum": 0},
        "end": {"type": "integer", "minimum": 0},
    },
    "required": ["id", "source", "heading", "text", "score", "start", "end"],
}
"""JSON Schema of a passage in a result."""


def encode_passages(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Passages in the format of results, best first."""
    return [
        {
            "id": one.id,
            "source": one.source,
            "heading": one.heading,
            "text": one.text,
            "score": round(one.score, 4),
            "start": one.start,
            "end": one.end,
        }
        for one in found
    ]


def cite(passage: Mapping[str, Any], start: int, end: int) -> dict[str, Any]:
    """A citation of characters ``start`` to ``end`` of a passage. The offsets in the citation count from the
    start of the whole document.

    A citation of the request's context has no ``id`` and no ``heading``.
    """
    return {
        "source": passage["source"],
        "quote": passage["text"][start:end],
        "start": passage["start"] + start,
        "end": passage["start"] + end,
        **{key: passage[key] for key in ("id", "heading") if key in passage},
    }


def keep_proven(text: str, passages: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The sentences of ``text`` that a passage supports, and citations of the supporting sentences."""
    evidence = Evidence(with_heading(one.get("heading", ""), one["text"]) for one in passages)
    kept: list[str] = []
    citations: list[dict[str, Any]] = []
    for start, end in split_sentences(text):
        sentence = text[start:end]
        if support := evidence.support(sentence):
            kept.append(sentence)
            passage = passages[support.sources[0]]
            citation = cite(passage, *most_like(sentence, passage["text"]))
            citations += [citation] if citation not in citations else []
    return " ".join(kept), citations
