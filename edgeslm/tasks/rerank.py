"""``rerank``: scores documents by how well they answer a query, with a reader (cross-encoder) or a decoder.

Only the HTTP API has this kind, as ``model:NAME`` of a reader or decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgeslm.engine.calls import Cost, Read
from edgeslm.errors import InvalidRequest, TooLong
from edgeslm.messages import Request
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome, Task, object_schema

MOST_DOCUMENTS: Final = 256
AT_ONCE: Final = 4
"""Number of documents in one engine call."""
LONGEST_TOKEN: Final = 16
"""Maximum number of characters of a token. What is more than the limit in such characters is cut before
tokenization, which would take long; the model cuts the rest by tokens."""
_FIELDS: Final = frozenset({"query", "documents", "max_tokens_per_doc", "truncate"})


class Rerank(Task):
    kind = "rerank"

    def check_input(self, request: Request) -> None:
        self._query(request)
        self._limits(request)

    def _query(self, request: Request) -> tuple[str, Sequence[str]]:
        """The query and the documents. :raises InvalidRequest: the input is another one."""
        found = request.input if not isinstance(request.input, str) else {}
        query, documents = found.get("query"), found.get("documents")
        if not found.keys() <= _FIELDS or not isinstance(query, str) or not query.strip():
            raise InvalidRequest("the input must be an object with query, a text, and documents")
        if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
            raise InvalidRequest("documents must be a list of texts")
        if not 1 <= len(documents) <= MOST_DOCUMENTS:
            raise InvalidRequest(f"documents must have 1 to {MOST_DOCUMENTS} texts, not {len(documents)}")
        return query, documents

    def _limits(self, request: Request) -> tuple[int, bool]:
        """The maximum number of tokens of a document, and whether longer ones are cut.

        :raises InvalidRequest: the input has other values.
        """
        found = request.input if not isinstance(request.input, str) else {}
        length = self.context_length or 512
        most, cuts = found.get("max_tokens_per_doc", length), found.get("truncate", True)
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise InvalidRequest("max_tokens_per_doc must be a whole number above 0")
        if not isinstance(cuts, bool):
            raise InvalidRequest("truncate must be true or false")
        return min(most, length), cuts

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        (query, documents), (most, cuts) = self._query(request), self._limits(request)
        relevance, cut, cost = [0.0] * len(documents), set[int](), Cost()
        # The longest come first, so that an error of a document that is too long comes soon.
        order = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
        for begin in range(0, len(order), AT_ONCE):
            some = order[begin : begin + AT_ONCE]
            texts = tuple(documents[index][: most * LONGEST_TOKEN] for index in some)
            output = await ask(Read(query[: (self.context_length or 512) * LONGEST_TOKEN], texts, most))
            cost += output.cost
            for number, index in enumerate(some):
                relevance[index] = round(output.probabilities[number], 6)
                if number in output.cut or len(texts[number]) < len(documents[index]):
                    cut.add(index)
            if cut and not cuts:
                raise TooLong(
                    f"document {min(cut) + 1} has more than {most} tokens, or doesn't fit the model's "
                    "context; send a shorter one, raise max_tokens_per_doc, or leave out truncate"
                )
        return Outcome("ok", {"relevance": relevance, "cut": sorted(cut)}, cost)

    def result_schema(self) -> dict[str, Any]:
        numbers = {"type": "array", "items": {"type": "integer", "minimum": 0}}
        return object_schema({"relevance": {"type": "array", "items": PROBABILITY}, "cut": numbers})
