"""Feedback: receives corrections over MQTT, checks them against their task and stores them on this device.

A correction may give the id of its request instead of the text: the texts of the last 256 requests are kept
in memory. Corrections get no answer; rejected corrections are counted and logged.
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
"""Number of requests whose text is kept for corrections by request id."""
MOST_WAITING = 64
"""Maximum number of corrections that wait to be written to disk. Further corrections are dropped if they come
at QoS 0, which has no flow control."""
LONGEST = 4096
"""Maximum number of characters of a request's text; longer texts aren't kept. A correction of a request with
a longer text must contain the text."""


class Corrections:
    """Corrections for the tasks of ``service``; ``meter`` counts the rejected corrections."""

    def __init__(self, store: FeedbackStore, service: HasTasks, meter: Meter) -> None:
        self._store = store
        self._service = service
        self._meter = meter
        self._texts: OrderedDict[tuple[str, str], str | None] = OrderedDict()
        self._waiting = 0

    def remember(self, request: Request) -> None:
        """Keeps the request's text for corrections by request id."""
        # Names of unknown tasks may have any length: they must not fill the memory.
        if request.task not in self._service.tasks:
            return
        if isinstance(request.input, str) and len(request.input) <= LONGEST:
            key = (request.task, request.id)
            # Small boards restart their ids at 1: an id with two texts is ambiguous.
            same = self._texts.get(key, request.input) == request.input
            self._texts[key] = request.input if same else None
            self._texts.move_to_end(key)
            while len(self._texts) > REMEMBERED:
                self._texts.popitem(last=False)

    @property
    def is_full(self) -> bool:
        return self._waiting >= MOST_WAITING

    async def take(self, payload: bytes, *, retained: bool = False) -> None:
        """Stores the correction in the payload of a feedback message. Corrections in retained messages are
        rejected."""
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
    """Why ``fields`` don't fit ``schema``, in at most 200 characters; None if they fit."""
    known = (schema or {}).get("properties", {})
    if unknown := sorted(set(fields) - set(known)):
        return f"it has no field {unknown[0]!r}"
    error = next(make_validator(schema or {}).iter_errors(dict(fields)), None)
    return None if error is None else str(error.message)[:200]


def check_correction(task: Task, correction: Correction) -> Correction:
    """:raises InvalidRequest: the correction doesn't fit the task's kind, labels or schema."""
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
