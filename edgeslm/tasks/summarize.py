"""``summarize``: a text that fits the model's context, in few sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeslm.engine.calls import Generate, Prompt, Text
from edgeslm.messages import Request
from edgeslm.tasks.task import Ask, Outcome, Task

INSTRUCTION = "Summarize the text in one or two short sentences."


class Summarize(Task):
    kind = "summarize"

    async def run(self, request: Request, ask: Ask, on_chunk: Callable[[str], None] | None) -> Outcome:
        output = await ask(
            Generate(
                Prompt(
                    self.turns(
                        (self.section.instruction or INSTRUCTION,), Text(self.text(request), cut=True)
                    ),
                    overflow=self.section.overflow,
                ),
                self.option(request, "max_tokens"),
                self.sampling(request),
                stop=tuple(self.option(request, "stop")),
                stream=bool(request.options.get("stream")),
            ),
            on_chunk,
        )
        # One text came in, so the summary has one source: the input itself.
        return Outcome.of(output, {"text": output.text.strip(), "sources": ["input"]})

    def result_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "sources": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["text", "sources"],
        }
