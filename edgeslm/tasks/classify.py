"""``classify``: a probability for each label; text is never decoded.

Two ways: a head learned on encoder embeddings, or the decoder's own distribution over the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeslm.engine.calls import Classify as ClassifyCall
from edgeslm.engine.calls import Prompt, Score, Text
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks.task import Ask, Outcome, Task

INSTRUCTION = "Which label fits the message?"


class Classify(Task):
    kind = "classify"

    def check(self, request: Request) -> None:
        super().check(request)
        if self.head is not None and "labels" in request.options:
            raise InvalidRequest(f"the labels of task {self.name} are learned and can't be set by a request")

    async def run(self, request: Request, ask: Ask, on_chunk: Callable[[str], None] | None) -> Outcome:
        message = self.text(request)
        if self.head is not None and self.section.learned is not None:
            labels = self.head.labels
            folder = str(self.section.learned)
            output = await ask(ClassifyCall(message, folder, self.section.overflow, self.head_digest))
            stage = "learned"
        else:
            meanings = self._meanings(request)
            labels = tuple(meanings)
            output = await ask(Score(self._prompt(request, meanings, message), labels))
            stage = self.section.model or ""
        scores = dict(zip(labels, output.probabilities, strict=True))
        label = max(scores, key=scores.__getitem__)
        result = {"label": label, "confidence": scores[label], "scores": scores, "stage": stage}
        return Outcome.of(output, result, abstained=scores[label] < (self.section.threshold))

    def result_schema(self) -> dict[str, Any]:
        labels = list(self.head.labels if self.head else self.section.labels or ())
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        return {
            "type": "object",
            "properties": {
                "label": {"type": "string", **({} if "labels" in self.section.allowed else {"enum": labels})},
                "confidence": probability,
                "scores": {"type": "object", "additionalProperties": probability},
                "stage": {"type": "string"},
            },
            "required": ["label", "confidence", "scores", "stage"],
        }

    def _meanings(self, request: Request) -> dict[str, str]:
        sent = request.options.get("labels")
        if sent is None:
            return dict(self.section.labels or {})
        return dict(sent) if isinstance(sent, dict) else dict.fromkeys(sent, "")

    def _prompt(self, request: Request, meanings: dict[str, str], message: str) -> Prompt:
        lines = [f"- {label}: {meaning}" if meaning else f"- {label}" for label, meaning in meanings.items()]
        shown = "\n".join(lines)
        instruction = (
            f"{self.section.instruction or INSTRUCTION}\nLabels:\n",
            Text(shown) if "labels" in request.options else shown,
            "\nAnswer with one label and nothing else.",
        )
        return Prompt(self.turns(instruction, Text(message, cut=True)), overflow=self.section.overflow)
