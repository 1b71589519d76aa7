"""Reranking in the form of llama.cpp's server and Jina's API, with limits as Cohere, vLLM and TEI have
them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.api.dialect import Told, own_options, refuse
from edgeslm.api.node import Offered, Question
from edgeslm.messages import NORMAL_PRIORITY

PRIORITY: Final = NORMAL_PRIORITY - 1
"""Default priority: a ranking takes as long as many chats, which need not wait for it."""
DOCUMENT_TOKENS: Final = 1024
"""Default maximum number of tokens of a document; a whole context of them takes a decoder minutes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A ranking that a client asks for. ``top_n`` is the number of results."""

    model: str
    question: Question
    documents: Sequence[str]
    top_n: int
    with_documents: bool


def read(body: Mapping[str, Any], offered: Offered) -> Asked:
    """:raises Refusal: the request is wrong, or names neither a reader nor a decoder."""
    if offered.reranker is None:
        raise refuse(
            f"{offered.name} ranks no documents: it is of kind {offered.kind}. "
            "Name model:NAME of a reader or decoder."
        )
    query, given = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query.strip():
        raise refuse("query must be a text.")
    if not isinstance(given, list) or not given:
        raise refuse("documents must be a list with at least one text.")
    documents = []
    for number, one in enumerate(given, 1):
        text = one.get("text") if isinstance(one, Mapping) else one
        if not isinstance(text, str):
            raise refuse(f"Document {number} must be a text, or an object with text.")
        documents.append(text)
    top_n = body.get("top_n")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise refuse("top_n must be a whole number above 0.")
    with_documents = body.get("return_documents")
    if with_documents not in (None, True, False):
        raise refuse("return_documents must be true or false.")
    limits = {"max_tokens_per_doc": DOCUMENT_TOKENS, "truncate": True}
    limits |= {name: body[name] for name in limits if body.get(name) is not None}
    options = {"priority": PRIORITY, **own_options(body)}
    question = Question(offered.reranker, {"query": query, "documents": documents, **limits}, options)
    return Asked(offered.name, question, documents, top_n or len(documents), bool(with_documents))


def ranking(asked: Asked, told: Told) -> dict[str, Any]:
    """The answer: the most relevant documents first. The score is the probability, from 0 to 1, that the
    document answers the query. Documents that were cut are named in a warning, as Cohere's API does."""
    relevance = told.result["relevance"]
    order = sorted(range(len(relevance)), key=lambda index: -relevance[index])[: asked.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": relevance[index]} for index in order]
    if asked.with_documents:
        results = [{**one, "document": {"text": asked.documents[one["index"]]}} for one in results]
    prompt, _ = told.usage
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    answer = {"model": asked.model, "object": "list", "usage": usage, "results": results}
    if cut := told.result["cut"]:
        which = ", ".join(map(str, cut))
        warning = f"The ends of documents that are too long weren't read: index {which}."
        return {**answer, "meta": {"warnings": [warning]}}
    return answer
