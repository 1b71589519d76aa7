"""``rerank``: scores documents by how well they answer a query, with a reader (cross-encoder) or a decoder.

Only the HTTP API has this kind, as ``model:NAME`` of a reader or decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgeslm.engine.calls import Cost, Read
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome, Task, object_schema

MOST_DOCUMENTS: Final = 256
AT_ONCE: Final = 4
"""Number of documents in one engine call; small, since more urgent requests wait until a call is done."""
LONGEST_TOKEN: Final = 16
"""Maximum number of characters of a token. What is more than the model's context in such characters is cut
before tokenization, which would take long; the model cuts the rest by tokens."""


class Rerank(Task):
    kind = "rerank"

    def check_input(self, request: Request) -> None:
        self._query(request)

    def _query(self, request: Request) -> tuple[str, Sequence[str]]:
        """The query and the documents. :raises InvalidRequest: the input is another one."""
        found = request.input if not isinstance(request.input, str) else {}
        query, documents = found.get("query"), found.get("documents")
        if found.keys() != {"query", "documents"} or not isinstance(query, str) or not query.strip():
            raise InvalidRequest("the input must be an object with query, a text, and documents")
        if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
            raise InvalidRequest("documents must be a list of texts")
        if not 1 <= len(documents) <= MOST_DOCUMENTS:
            raise InvalidRequest(f"documents must have 1 to {MOST_DOCUMENTS} texts, not {len(documents)}")
        return query, documents

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        query, documents = self._query(request)
        most = (self.context_length or 512) * LONGEST_TOKEN
        relevance, cost = list[float](), Cost()
        for begin in range(0, len(documents), AT_ONCE):
            texts = tuple(text[:most] for text in documents[begin : begin + AT_ONCE])
            output = await ask(Read(query[:most], texts))
            relevance += output.probabilities
            cost += output.cost
        return Outcome("ok", {"relevance": [round(one, 6) for one in relevance]}, cost)

    def result_schema(self) -> dict[str, Any]:
        return object_schema({"relevance": {"type": "array", "items": PROBABILITY}})
