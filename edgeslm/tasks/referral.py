"""Referral: sends a question and this node's passages to another node, and converts the answer's citations.

The other node gets an ordinary request with a context, and cites offsets in this context. This module
converts the citations to sources and offsets of the original documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeslm.tasks.passages import cite, keep_proven

CONTEXT: Final = "context"
"""Value of ``source`` in a citation that cites a request's context."""
_BETWEEN: Final = "\n\n"


def refer(passages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Options of the request to the other node; empty if there are no passages."""
    return {"context": _BETWEEN.join(one["text"] for one in passages)} if passages else {}


def bring_back(passages: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """The other node's answer, with its citations converted to citations of documents; None if the answer has
    no valid citation.

    A citation is valid if its quote occurs in the passages, or if it cites the other node's own documents. If
    the answer isn't a quote, as in mode ``compose``, only sentences that a passage supports are kept.
    """
    text, cited = answer.get("text"), answer.get("citations")
    if not isinstance(text, str) or not text.strip() or not isinstance(cited, list):
        return None
    citations = [kept for one in cited if (kept := _bring_back(passages, one)) is not None]
    quotes = [one["quote"].strip() for one in citations]
    if not cited or (citations and not _has_own(cited) and text.strip() not in quotes):
        text, citations = keep_proven(text, passages)
    sure = answer.get("confidence")
    told = {"confidence": sure} if isinstance(sure, float) and 0 <= sure <= 1 else {}
    return {"text": text, "citations": citations, **told} if citations else None


def _has_own(cited: Sequence[Any]) -> bool:
    """Whether the other node cites its own documents."""
    return any(isinstance(one, Mapping) and one.get("source") != CONTEXT for one in cited)


def _bring_back(passages: Sequence[Mapping[str, Any]], citation: Any) -> dict[str, Any] | None:
    if not isinstance(citation, Mapping):
        return None
    quote, start = citation.get("quote"), citation.get("start")
    if not isinstance(quote, str) or not quote or not isinstance(start, int):
        return None
    if citation.get("source") != CONTEXT:
        return dict(citation)
    begin = 0
    for passage in passages:
        text = passage["text"]
        inside = start - begin
        if 0 <= inside < len(text):
            if text[inside : inside + len(quote)] != quote:
                return None
            return cite(passage, inside, inside + len(quote))
        begin += len(text) + len(_BETWEEN)
    return None
