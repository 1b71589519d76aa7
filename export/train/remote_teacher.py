"""A teacher on an OpenAI-compatible server: a larger model that labels texts, one chat for each.

Failed requests are repeated, and a server's Retry-After is kept. Answers that aren't one of the labels are
asked for once more, then the text has no label.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.train.spec import Budget
from edgeslm_export.train.tune import Task

from edgeslm.config.fields import http_url
from edgeslm.config.remote_stages import LOOPBACK, read_key
from edgeslm.errors import ExportError
from edgeslm.remote.chat import Chat, RemoteError, Reply, parse_object
from edgeslm.remote.client import ChatClient

PREFIX: Final = "openai:"
AT_ONCE: Final = 4
"""Number of texts that are asked for at a time."""
TIMEOUT_S: Final = 120.0
PAUSES_S: Final = (1.0, 4.0, 15.0, 60.0)
"""Pauses before the repeats of a failed request."""
LABEL_TOKENS: Final = 64
LEAST: Final = 1.1
"""Least probability of the label that was written, as a multiple of an even share."""
INSTRUCTION: Final = "Which label fits the message?"

Answer = Mapping[str, Any] | None
"""Result of a classify task; None if the task failed."""


@dataclass
class RemoteTeacher:
    """A model on a server. ``most_tokens`` limits the tokens of this run, prompts included; ``tokens`` counts
    them."""

    url: str
    model: str
    key_file: Path | None = None
    most_tokens: int | None = None
    tokens: int = 0
    pauses_s: Sequence[float] = PAUSES_S
    block: int = 20
    """Number of texts that are labelled between two saves."""
    learned: None = field(default=None, init=False)

    @property
    def is_spent(self) -> bool:
        """Whether the tokens of this run are used up; the rest of a block is still asked for."""
        return self.most_tokens is not None and self.tokens >= self.most_tokens

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return urlsplit(self.url).hostname in LOOPBACK

    @property
    def identity(self) -> str:
        """Distinguishes its answers from those of other teachers."""
        return f"{PREFIX}{self.url}#{self.model}"

    def asks(self, task: Task) -> object:
        """What it is asked, besides the text."""
        return self._messages(task, "")

    def answers(
        self, task: Task, rows: Sequence[LabelledRow], budget: Budget, on_progress: OnProgress | None
    ) -> list[Answer]:
        """An answer for each row, None if there is none.

        :raises ExportError: the server can't be used. Earlier blocks are saved.
        """
        return asyncio.run(self._label(task, [row.text for row in rows], on_progress))

    def examine(self, task: Task, rows: Sequence[LabelledRow], budget: Budget) -> dict[str, Any]:
        """Its report on labelled rows."""
        import numpy as np
        from edgeslm_export.evaluate.metrics import calibration_error, share

        started = time.monotonic()
        answers = self.answers(task, rows, budget, budget.on_progress)
        ms = (time.monotonic() - started) * 1000 / max(1, len(rows))
        given = [one["label"] if one else None for one in answers]
        right = np.array([label == row.label for label, row in zip(given, rows, strict=True)])
        sure = np.array([one["confidence"] if one else 0.0 for one in answers])
        accuracy = share(right)
        return {
            "accuracy": accuracy["share"],
            "interval": accuracy["interval"],
            "calibration_error": round(calibration_error(sure, right), 4),
            "ms_per_row": ms,
        }

    async def _label(self, task: Task, texts: Sequence[str], on_progress: OnProgress | None) -> list[Answer]:
        client = ChatClient(
            self.url,
            self.model,
            read_key=None if self.key_file is None else partial(read_key, self.key_file),
            is_local=self.is_local,
        )
        turns, done = asyncio.Semaphore(AT_ONCE), 0

        async def one(text: str) -> Answer:
            nonlocal done
            async with turns:
                answer = await self._answer(client, task, text)
            done += 1
            if on_progress is not None:
                on_progress(done, len(texts), "labelling")
            return answer

        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(one(text)) for text in texts]
        except* RemoteError as errors:
            raise ExportError(f"{self.url}: {errors.exceptions[0]}; what is labelled is kept.") from None
        finally:
            await client.close()
        return [task.result() for task in asked]

    async def _answer(self, client: ChatClient, task: Task, text: str) -> Answer:
        labels = task.labels
        schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(labels)}},
            "required": ["label"],
            "additionalProperties": False,
        }
        chat = Chat(self._messages(task, text), LABEL_TOKENS, schema, sampling={"temperature": 0.0})
        for _ in range(2):
            reply = await self._ask(client, chat)
            if reply is None:
                return None
            self.tokens += sum(reply.usage.values()) or (len(str(chat.messages)) + len(reply.text)) // 3
            if (label := _label_of(reply.text, labels)) is not None:
                return _shares(label, labels, reply.probability_of(label))
        return None

    async def _ask(self, client: ChatClient, chat: Chat) -> Reply | None:
        """The reply; None if the server refuses this text. :raises RemoteError: the server fails."""
        for pause_s in (*self.pauses_s, None):
            try:
                return await client.ask(chat, TIMEOUT_S)
            except RemoteError as error:
                if not error.is_of_server:
                    return None
                if pause_s is None or error.status in (401, 403, 404):  # a repeat wouldn't help
                    raise
                await asyncio.sleep(max(pause_s, error.retry_after_s or 0.0))
        raise AssertionError

    @staticmethod
    def _messages(task: Task, text: str) -> list[dict[str, Any]]:
        meanings = task.section.labels or {}
        lines = [f"- {label}: {meaning}" if meaning else f"- {label}" for label, meaning in meanings.items()]
        system = "\n".join([task.section.instruction or INSTRUCTION, "Labels:", *lines])
        asked = f'{text}\n\nAnswer as JSON: {{"label": "..."}}'
        return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


def _label_of(text: str, labels: Sequence[str]) -> str | None:
    label = (parse_object(text) or {"label": text.strip().strip('."')}).get("label")
    return label if isinstance(label, str) and label in labels else None


def _shares(label: str, labels: Sequence[str], confidence: float | None) -> dict[str, Any]:
    """A label with a probability for each; without a confidence, it counts as certain. It is the likeliest
    one even if the server thinks otherwise."""
    sure = 1.0 if confidence is None else max(confidence, LEAST / len(labels))
    rest = (1 - sure) / max(1, len(labels) - 1)
    scores = {one: sure if one == label else rest for one in labels}
    return {"label": label, "confidence": sure, "scores": scores}


def make_remote_teacher(
    url: str, model: str | None, key_file: Path | None, most_tokens: int | None
) -> RemoteTeacher:
    """:raises ExportError: the address is invalid, the model isn't named, or the key can't be read."""
    try:
        http_url(url)
    except ValueError as error:
        raise ExportError(f"--teacher {PREFIX}{url}: {error}.") from None
    if model is None:
        raise ExportError("Name the model on the server with --teacher-model.")
    teacher = RemoteTeacher(url, model, key_file, most_tokens)
    if key_file is not None:
        if not (url.startswith("https://") or teacher.is_local):
            raise ExportError("Without TLS the key can be read on the network: write openai:https://.")
        try:
            read_key(key_file)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ExportError(f"--teacher-key {key_file}: {why}.") from None
    return teacher
