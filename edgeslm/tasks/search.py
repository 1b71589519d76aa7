"""``search``: finds the passages that match a question."""

from __future__ import annotations

from typing import Any

from edgeslm.engine.calls import Cost
from edgeslm.messages import Request
from edgeslm.tasks.passages import PASSAGE_SCHEMA, encode_passages
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema


class Search(Task):
    kind = "search"

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        names, k = self.collections(request), self.section.passages
        question, only = self.text(request), self.only(request)
        found = await self.opened.search(question, names, k, request.priority, only=only)
        # No match is an answer, too.
        return Outcome("ok", {"passages": encode_passages(found)}, Cost())

    def result_schema(self) -> dict[str, Any]:
        return object_schema({"passages": {"type": "array", "items": PASSAGE_SCHEMA}})
