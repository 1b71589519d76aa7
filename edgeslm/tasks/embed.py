"""``embed``: computes the embedding of a text."""

from __future__ import annotations

from typing import Any

from edgeslm.engine.calls import Embed
from edgeslm.messages import Request
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema


class EmbedText(Task):
    kind = "embed"

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        output = await ask(Embed((self.text(request),), self.section.overflow))
        return Outcome.of(output, {"vector": list(output.vectors[0])})

    def result_schema(self) -> dict[str, Any]:
        return object_schema({"vector": {"type": "array", "items": {"type": "number"}}})
