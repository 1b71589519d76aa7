"""``classify``: gives each label a probability, without decoding text.

The probabilities come from a head trained on encoder embeddings, or from a decoder's distribution over the
labels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from edgeslm.bundle.calibration import LabelledBias, judge, without_bias
from edgeslm.engine.calls import Classify as ClassifyCall
from edgeslm.engine.calls import Output, Prompt, Score, Text
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.remote.chat import Chat, parse_object
from edgeslm.tasks.consulting import Consult, as_messages
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome, Task, object_schema, threshold_of

CONTENT_FREE = ("N/A", "[MASK]", "-")
"""Messages without content, used to measure the model's label bias (Zhao et al., 2021, section 4)."""
MOST_BIASES = 16
INSTRUCTION = "Which label fits the message?"
LABEL_TOKENS = 128
"""Maximum number of tokens of another server's answer: the JSON of a label."""
_AS_LABEL = "Answer with one label and nothing else."
_AS_JSON = 'Answer with one label as JSON, and nothing else: {"label": "..."}'


class LabelSample:
    """A random sample of the newer messages that an untaught task labelled since the node's start: for each,
    a mark of the text instead of the text, the probabilities without a label bias, and the label that was
    given (reservoir sampling with a bias to new ones, Aggarwal, 2006). A text that comes often is kept once.

    :param most: its size. :param span: about how many different messages it is of, the last ones.
    """

    def __init__(self, most: int, span: int) -> None:
        self._most = most
        self._span = span
        self._chance = random.Random()
        self._count = 0
        self.kept: dict[bytes, tuple[tuple[float, ...], str]] = {}

    def add(self, text: str, probabilities: tuple[float, ...], label: str) -> None:
        mark = mark_of(text)
        if mark not in self.kept:
            self._count = min(self._count + 1, self._span)
            if len(self.kept) == self._most:
                if self._chance.random() * self._count >= self._most:
                    return
                del self.kept[self._chance.choice(list(self.kept))]
        self.kept[mark] = (probabilities, label)


def mark_of(text: str) -> bytes:
    """Tells whether two texts are the same, in 16 bytes."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


class Classify(Task):
    kind = "classify"

    def set_up(self) -> None:
        self._calibration = None if self.learned is None else self.learned.calibration
        self.threshold = threshold_of(self.name, self.section, self._calibration)
        """Confidence below which a result is ``abstained`` instead of ``ok``."""
        self.fitted: LabelledBias | None = None
        """The label bias that the node fitted to corrections, for ``calibration: feedback``."""
        self.seen: LabelSample | None = None
        """What the node's calibration needs of the messages that are labelled."""
        self._biases: dict[tuple[tuple[str, str], ...], tuple[float, ...]] = {}

    def check(self, request: Request) -> None:
        super().check(request)
        if self.learned is not None and "labels" in request.options:
            raise InvalidRequest(f"the labels of task {self.name} are learned and can't be set by a request")

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        message = self.text(request)
        if self.learned is not None and self.bundle is not None and self.is_head:
            labels = self.learned.labels
            head = ClassifyCall(message, str(self.bundle.path), self.section.overflow, self.bundle.digest)
            output = await ask(head)
            plain = output.probabilities
        else:
            meanings = self._meanings(request)
            labels = tuple(meanings)
            output = await self.score(request, meanings, message, ask)
            plain = output.probabilities
            if self.learned is None and (biases := await self._biases_of(request, meanings, ask)):
                output = replace(output, probabilities=without_bias(output.probabilities, biases))
        verdict = judge(output.probabilities, self._calibration)
        if self.seen is not None and "labels" not in request.options and verdict.confidence >= self.threshold:
            self.seen.add(message, plain, labels[verdict.best])
        result = {
            "label": labels[verdict.best],
            "confidence": verdict.confidence,
            "scores": dict(zip(labels, verdict.scores, strict=True)),
            "stage": self.stage,
            **({"taught": False} if self.is_untaught else {}),
        }
        return Outcome.of(output, result, abstained=verdict.confidence < self.threshold)

    async def score(self, request: Request, meanings: Mapping[str, str], message: str, ask: Ask) -> Output:
        """The model's output for a message, with a probability for each label."""
        return await ask(Score(self._prompt(request, meanings, message), tuple(meanings)))

    def is_answer(self, result: Mapping[str, Any], message: str) -> bool:
        return result.get("label") in (self.section.labels or ())

    async def consult(
        self, request: Request, found: Mapping[str, Any], ask: Consult
    ) -> Mapping[str, Any] | None:
        """The server's label. Its confidence is the probability of the text, if the server tells it."""
        meanings = self._meanings(request)
        instruction = self._instruction(request, meanings, _AS_JSON)
        messages = as_messages(self.turns(instruction, Text(self.text(request))))
        for message in messages:
            if message["role"] == "assistant":  # an example, in the form that is asked for
                message["content"] = json.dumps({"label": message["content"]}, ensure_ascii=False)
        schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(meanings)}},
            "required": ["label"],
            "additionalProperties": False,
        }
        reply = await ask(Chat(messages, LABEL_TOKENS, schema, sampling={"temperature": 0.0}))
        label = (parse_object(reply.text) or {"label": reply.text.strip().strip('."')}).get("label")
        if not isinstance(label, str) or label not in meanings:
            return None
        sure = reply.probability_of(label)
        return {"label": label, **({} if sure is None else {"confidence": sure})}

    async def _biases_of(
        self, request: Request, meanings: dict[str, str], ask: Ask
    ) -> tuple[float, ...] | None:
        """The label biases that the task's ``calibration`` removes; None to remove none. Biases that were
        measured or fitted don't apply to labels that a request brings."""
        calibration = self.section.calibration
        if calibration == "contextual":
            return await self._bias(request, meanings, ask)
        if calibration == "feedback" and self.fitted is not None:
            calibration = self.fitted.biases or "none"
        if isinstance(calibration, str) or "labels" in request.options:
            return None
        return tuple(calibration[label] for label in meanings)

    async def _bias(self, request: Request, meanings: dict[str, str], ask: Ask) -> tuple[float, ...]:
        """The model's mean label probabilities for content-free messages, cached per set of labels."""
        key = tuple(meanings.items())
        if key not in self._biases:
            asked = [
                (await self.score(request, meanings, message, ask)).probabilities for message in CONTENT_FREE
            ]
            while len(self._biases) >= MOST_BIASES:  # requests may bring their own labels
                del self._biases[next(iter(self._biases))]
            self._biases[key] = tuple(sum(column) / len(asked) for column in zip(*asked, strict=True))
        return self._biases[key]

    def result_schema(self) -> dict[str, Any]:
        labels = list(self.section.labels or ())
        return object_schema(
            {
                "label": {"type": "string", **({} if "labels" in self.section.allowed else {"enum": labels})},
                "confidence": PROBABILITY,
                "scores": {"type": "object", "additionalProperties": PROBABILITY},
                "stage": {"type": "string"},
            },
            {"taught": {"const": False}},
        )

    def _meanings(self, request: Request) -> dict[str, str]:
        sent = request.options.get("labels")
        if sent is None:
            return dict(self.section.labels or {})
        return dict(sent) if isinstance(sent, dict) else dict.fromkeys(sent, "")

    def _prompt(self, request: Request, meanings: Mapping[str, str], message: str) -> Prompt:
        instruction: tuple[str | Text, ...] = (self.section.instruction or "",)
        if self.learned is None:  # an adapter was trained without the labels
            instruction = self._instruction(request, meanings, _AS_LABEL)
        return Prompt(self.turns(instruction, Text(message, cut=True)), overflow=self.section.overflow)

    def _instruction(
        self, request: Request, meanings: Mapping[str, str], form: str
    ) -> tuple[str | Text, ...]:
        lines = [f"- {label}: {meaning}" if meaning else f"- {label}" for label, meaning in meanings.items()]
        shown = "\n".join(lines)
        return (
            f"{self.section.instruction or INSTRUCTION}\nLabels:\n",
            Text(shown) if "labels" in request.options else shown,
            f"\n{form}",
        )
