"""``search``: the passages of the node's documents that a question is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgeslm.engine.calls import Cost
from edgeslm.knowledge.search import Found
from edgeslm.messages import Request
from edgeslm.tasks.task import Ask, Outcome, Task

PASSAGE_SCHEMA = {
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


class Search(Task):
    kind = "search"

    async def run(self, request: Request, ask: Ask, on_chunk: Callable[[str], None] | None) -> Outcome:
        names, k = self.collections(request), self.section.passages
        found = await self.opened.seek(self.text(request), names, k, request.priority)
        # Where nothing has any of the words and nothing is embedded, that is the answer.
        return Outcome("ok", {"passages": encode_passages(found)}, Cost())

    def result_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"passages": {"type": "array", "items": PASSAGE_SCHEMA}},
            "required": ["passages"],
        }


def encode_passages(found: Sequence[Found]) -> list[dict[str, Any]]:
    """As results tell passages, the best first."""
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
