"""``answer``: a question over a context that comes with the request.

``quote`` forces the answer to be a run of words of the context; ``compose`` lets the model speak.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edgeslm.engine.calls import Generate, Guide, Prompt, Text, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks.task import Ask, Outcome, Task

INSTRUCTION = "Read this text and answer the question."

SOURCE = "context"
"""The source that citations name when the context came with the request."""


class Answer(Task):
    kind = "answer"

    def check_input(self, request: Request) -> None:
        super().check_input(request)
        if not str(request.options.get("context", "")).strip():
            raise InvalidRequest(
                f"task {self.name} answers from a text: send it as options.context beside the question"
            )

    async def run(self, request: Request, ask: Ask, on_chunk: Callable[[str], None] | None) -> Outcome:
        question, context = self.text(request), str(request.options["context"])
        quoting = self.section.mode == "quote"
        # One turn for all: small models answer better when the instruction stands beside the text.
        parts = (
            self.section.instruction or INSTRUCTION,
            "\n\n",
            Text(context, cut=True),
            "\n\nQuestion: ",
            Text(question),
        )
        prompt = Prompt((Turn("user", parts),), overflow=self.section.overflow)
        output = await ask(
            Generate(
                prompt,
                self.option(request, "max_tokens"),
                self.sampling(request),
                quote_guide(context) if quoting else None,
                tuple(self.option(request, "stop")),
                stream=bool(request.options.get("stream")),
            ),
            on_chunk,
        )
        text = output.text.strip()
        start = context.find(text) if text else -1
        citations = []
        if start >= 0:
            citations.append({"source": SOURCE, "quote": text, "start": start, "end": start + len(text)})
        return Outcome.of(output, {"text": text, "citations": citations}, abstained=quoting and not citations)

    def result_schema(self) -> dict[str, Any]:
        citation = {
            "type": "object",
            "properties": {
                "source": {"type": "string"},
                "quote": {"type": "string"},
                "start": {"type": "integer"},
                "end": {"type": "integer"},
            },
            "required": ["source", "quote", "start", "end"],
        }
        return {
            "type": "object",
            "properties": {"text": {"type": "string"}, "citations": {"type": "array", "items": citation}},
            "required": ["text", "citations"],
        }


def quote_guide(context: str) -> Guide:
    """A grammar of all runs of words of the context (llguidance, ``substring_words``)."""
    return Guide("lark_grammar", "start: QUOTE\nQUOTE: %regex " + json.dumps({"substring_words": context}))
