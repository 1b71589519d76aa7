"""Feedback: corrections that come over the bus, checked against their task and kept on this device.

A sender may name the id of its request instead of repeating the text; for that the texts of the last requests
are held in memory, a few and not for long. Nothing answers: what can't be kept is counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from edgeslm.config.json_schemas import make_validator
from edgeslm.errors import FeedbackError, InvalidRequest
from edgeslm.messages import Request
from edgeslm.protocol.feedback import Feedback, parse_feedback
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from edgeslm.tasks import Task
from edgeslm.telemetry.extension import HasTasks
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.node")

REMEMBERED = 256
"""Requests whose text can still be named by id."""
MOST_WAITING = 64
"""Corrections that wait to be written; of QoS 0, which nothing holds back, more are dropped."""
LONGEST = 4096
"""Characters of a text that is remembered; longer ones have to be sent again."""


class Corrections:
    """For the tasks of ``service``; ``meter`` counts what isn't kept."""

    def __init__(self, store: FeedbackStore, service: HasTasks, meter: Meter) -> None:
        self._store = store
        self._service = service
        self._meter = meter
        self._texts: OrderedDict[tuple[str, str], str | None] = OrderedDict()
        self._waiting = 0

    def remember(self, request: Request) -> None:
        """A request that a correction may mean later."""
        # Of a task that isn't here none can, and its name may be as long as the sender likes.
        if request.task not in self._service.tasks:
            return
        if isinstance(request.input, str) and len(request.input) <= LONGEST:
            key = (request.task, request.id)
            # Small boards begin again with id 1: an id that means two texts means none.
            same = self._texts.get(key, request.input) == request.input
            self._texts[key] = request.input if same else None
            self._texts.move_to_end(key)
            while len(self._texts) > REMEMBERED:
                self._texts.popitem(last=False)

    @property
    def is_full(self) -> bool:
        return self._waiting >= MOST_WAITING

    async def take(self, payload: bytes, *, retained: bool = False) -> None:
        """A message of the feedback topic. One that the broker repeats at each start was taken before."""
        self._waiting += 1
        try:
            if retained:
                raise InvalidRequest(
                    "a retained correction is repeated by the broker; send it without retain"
                )
            correction = self._correction(parse_feedback(payload))
            await asyncio.to_thread(self._store.keep, correction)
        except (InvalidRequest, FeedbackError) as error:
            self._meter.drop("feedback")
            log.warning("a correction was not kept (%s)", type(error).__name__)
            log.debug("a correction was not kept: %s", error)
        finally:
            self._waiting -= 1

    def _correction(self, feedback: Feedback) -> Correction:
        """:raises InvalidRequest: an unknown task, id or label."""
        task = self._service.tasks.get(feedback.task)
        if task is None:
            raise InvalidRequest(f"there is no task {feedback.task!r} here")
        text = feedback.input
        if feedback.id is not None:
            text = self._texts.get((feedback.task, feedback.id))
        if text is None:
            raise InvalidRequest(
                f"the text of the request {feedback.id!r} isn't known any more; send it as input"
            )
        return check_correction(
            task, Correction(feedback.task, text, feedback.label, feedback.fields, feedback.id)
        )


def fields_fault(schema: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> str | None:
    """What keeps fields from being an answer by the schema, which names all that there are."""
    known = (schema or {}).get("properties", {})
    if unknown := sorted(set(fields) - set(known)):
        return f"it has no field {unknown[0]!r}"
    error = next(make_validator(schema or {}).iter_errors(dict(fields)), None)
    return None if error is None else str(error.message)[:200]


def check_correction(task: Task, correction: Correction) -> Correction:
    """:raises InvalidRequest: what the task can't learn from."""
    if task.kind not in ("classify", "extract"):
        raise InvalidRequest(f"the task {task.name} is of kind {task.kind}, which isn't learned")
    if (correction.fields is not None) != (task.kind == "extract"):
        needed = "fields" if task.kind == "extract" else "a label"
        raise InvalidRequest(f"the task {task.name} is of kind {task.kind}: its corrections have {needed}")
    if correction.fields is not None and (
        fault := fields_fault(task.section.output_schema, correction.fields)
    ):
        raise InvalidRequest(f"the fields don't fit the schema of task {task.name}: {fault}")
    labels = task.section.labels
    if correction.label is not None and labels and correction.label not in labels:
        raise InvalidRequest(
            f"the task {task.name} has no label {correction.label!r}; it has {', '.join(labels)}"
        )
    return correction
