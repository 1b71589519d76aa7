"""Fine-tuning rows for decoders: turns labelled rows into token ids of prompt and answer.

The prompt is the one that ``edgeslm.tasks`` makes on a device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.train.lora_training import TokenRow

from edgeslm.engine.calls import Call, Generate, OnText, Output, Prompt, Score
from edgeslm.engine.worker.prompt import ChatTokenizer
from edgeslm.errors import TooLong
from edgeslm.messages import Request
from edgeslm.tasks import Task
from edgeslm.tasks.extract import encode_fields

LONGEST = 512
"""Maximum number of tokens of a prompt; rows with a longer prompt are left out."""


class _Asked(Exception):
    """Raised when a task calls the engine. The exception ends the task's run and carries the call to the code
    that started the run."""

    def __init__(self, call: Call) -> None:
        self.call = call


class RowEncoder:
    """Encodes rows of one task for the decoder bundle in ``folder``."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._chat = ChatTokenizer(folder)
        self._task = task
        self._end = _end_token(folder)

    def label_rows(
        self, texts: Sequence[str], labels: Sequence[str], shares: Sequence[Sequence[float]]
    ) -> list[TokenRow | None]:
        """Token rows of a classify task; None in place of texts that are too long.

        :param shares: [texts, labels], target probabilities.
        """
        paths = [(*self._chat.encode_text(label), self._end) for label in labels]
        return [
            None if prompt is None else _label_row(prompt, paths, of_row)
            for prompt, of_row in zip(self._prompts(texts), shares, strict=True)
        ]

    def field_rows(self, texts: Sequence[str], fields: Sequence[Mapping[str, Any]]) -> list[TokenRow | None]:
        """Token rows of an extract task; None in place of texts that are too long."""
        return [
            None
            if prompt is None
            else TokenRow(prompt, [*self._chat.encode_text(encode_fields(self._ordered(of_row))), self._end])
            for prompt, of_row in zip(self._prompts(texts), fields, strict=True)
        ]

    def text_rows(self, texts: Sequence[str], answers: Sequence[str]) -> list[TokenRow | None]:
        """Token rows of a task that generates text; None in place of texts that are too long."""
        return [
            None if prompt is None else TokenRow(prompt, [*self._chat.encode_text(answer), self._end])
            for prompt, answer in zip(self._prompts(texts), answers, strict=True)
        ]

    def _ordered(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields as the task's grammar makes a device write them: in the schema's order, without nulls in
        optional fields."""
        schema = self._task.section.output_schema or {}
        required = schema.get("required", ())
        order = [name for name in schema.get("properties", fields) if name in fields]
        return {name: fields[name] for name in order if fields[name] is not None or name in required}

    def _prompts(self, texts: Sequence[str]) -> Iterator[list[int] | None]:
        for text in texts:
            try:
                yield self._chat.encode(asyncio.run(self._asked(text)), LONGEST).ids
            except TooLong:
                yield None

    async def _asked(self, text: str) -> Prompt:
        async def ask(call: Call, on_chunk: OnText | None = None) -> Output:
            raise _Asked(call)

        try:
            await self._task.run(Request(self._task.name, text, "", ""), ask, None)
        except _Asked as asked:
            if isinstance(asked.call, Generate | Score):
                return asked.call.prompt
        raise TypeError(f"the task {self._task.name} asks no decoder")


def _label_row(prompt: list[int], paths: Sequence[Sequence[int]], shares: Sequence[float]) -> TokenRow:
    """The token row of the most likely label: its answer is the label's path in the label tree. Each step
    lists the possible tokens; a token's target probability is the sum over the labels that continue with the
    token."""
    answer = max(zip(shares, paths, strict=True), key=lambda pair: pair[0])[1]
    steps = []
    for depth, _ in enumerate(answer):
        behind: dict[int, float] = {}
        for path, share in zip(paths, shares, strict=True):
            if path[:depth] == answer[:depth] and len(path) > depth:
                behind[path[depth]] = behind.get(path[depth], 0.0) + share
        total = sum(behind.values())
        steps.append((list(behind), [share / total for share in behind.values()]))
    used = max((depth + 1 for depth, (choices, _) in enumerate(steps) if len(choices) > 1), default=1)
    return TokenRow(prompt, answer[:used], steps[:used])


def _end_token(folder: Path) -> int:
    """The first of the model's end tokens."""
    import json

    end = json.loads((folder / "genai_config.json").read_bytes())["model"]["eos_token_id"]
    return int(end[0] if isinstance(end, list) else end)
