"""Feedback: receives corrections over MQTT, checks them against their task and stores them on this device.

A correction may give the id of its request instead of the text: the texts of the last 256 requests are kept
in memory. Corrections get no answer; rejected corrections are counted and logged. The command
``feedback/list`` gives a task with its corrections to the build machine that trains it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeslm.config.json_schemas import make_validator
from edgeslm.config.loader import Config
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import FeedbackError, InvalidRequest
from edgeslm.messages import Request
from edgeslm.protocol.commands import Handler, only, text_argument
from edgeslm.protocol.feedback import Feedback, parse_feedback
from edgeslm.serving.service import Service
from edgeslm.storage.feedback_store import Correction, FeedbackStore, Row, is_used, is_waiting
from edgeslm.tasks import Task
from edgeslm.telemetry.extension import HasTasks
from edgeslm.telemetry.health import Meter

if TYPE_CHECKING:
    from edgeslm.console.feed import Feed

log = logging.getLogger("edgeslm.node")

REMEMBERED = 256
"""Number of requests whose text is kept for corrections by request id."""
MOST_WAITING = 64
"""Maximum number of corrections that wait to be written to disk. Further corrections are dropped if they come
at QoS 0, which has no flow control."""
LONGEST = 4096
"""Maximum number of characters of a request's text; longer texts aren't kept. A correction of a request with
a longer text must contain the text."""
PAGE_BYTES = 200_000
"""Approximate size of an answer to ``feedback/list``."""


class Corrections:
    """Corrections for the tasks of ``service``; ``meter`` counts the rejected corrections, and ``feed`` gets
    those that are stored."""

    def __init__(
        self, store: FeedbackStore, service: HasTasks, meter: Meter, feed: Feed | None = None
    ) -> None:
        self._store = store
        self._service = service
        self._meter = meter
        self._feed = feed
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

    async def take(
        self, payload: bytes, *, retained: bool = False, again: bool = False, by: str = ""
    ) -> None:
        """Stores the correction in the payload of a feedback message by the sender ``by``. Corrections in
        retained messages are rejected. ``again``: the broker delivers the message again; a correction that
        was stored the first time isn't stored twice."""
        self._waiting += 1
        try:
            if retained:
                raise InvalidRequest(
                    "a retained correction is repeated by the broker; send it without retain"
                )
            correction = replace(self._correction(parse_feedback(payload)), by=by)
            if not again or not await asyncio.to_thread(self._store.has, correction):
                await asyncio.to_thread(self._store.keep, correction)
            if self._feed is not None:
                self._feed.correct(correction)
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


def feedback_handlers(store: FeedbackStore, service: Service, node: str) -> dict[str, Handler]:
    """The command ``feedback/list``: a page of a task's corrections that training uses, and on the first page
    the task's description."""

    async def list_page(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "task", "after")
        name, after = text_argument(arguments, "task"), arguments.get("after", 0)
        if type(after) is not int or after < 0:
            raise InvalidRequest("The command's 'after' is a whole number from an earlier answer.")
        deployment = service.deployment
        if (task := deployment.tasks.get(name)) is None:
            raise InvalidRequest(f"there is no task {name!r} here; there are: {', '.join(deployment.tasks)}")
        rows, following = await asyncio.to_thread(store.page, name, after, PAGE_BYTES)
        page: dict[str, Any] = {"rows": [row for row in rows if is_used(row)], "waiting": waiting(rows)}
        if not after:
            models = {one: deployment.models.bundle(one) for one in deployment.models.names}
            told = {one: {"kind": of.manifest.kind, "digest": of.digest} for one, of in models.items()}
            page |= {"task": describe_task(task, deployment.config.tasks[name]), "node": node, "models": told}
            page["takes_updates"] = takes_updates(deployment.config)
        return page if following is None else {**page, "after": following}

    return {"feedback/list": list_page}


def waiting(rows: Iterable[Row]) -> dict[str, int]:
    """Number of corrections by sender that nobody has accepted or refused yet."""
    return dict(Counter(str(row["by"]) for row in rows if is_waiting(row)))


def takes_updates(config: Config) -> bool:
    """Whether bundles may come over MQTT."""
    return "models" in config.control.allow and "mqtt" in config.updates.sources


def describe_task(task: Task, section: TaskSection) -> dict[str, Any]:
    """A task as ``edgeslm-export tune`` takes it: its name and those keys that training needs.

    :param section: the task's section of the configuration, which has the meanings of the labels.
    :raises InvalidRequest: the task is of a kind that isn't learned.
    """
    if task.kind not in ("classify", "extract"):
        raise InvalidRequest(f"the task {task.name} is of kind {task.kind}, which isn't learned")
    whole = task.section
    labels, schema = section.labels or whole.labels, whole.output_schema
    keys = {
        "labels": dict(labels) if labels else None,
        "schema": dict(schema) if schema else None,
        "instruction": section.instruction or whole.instruction,
        "verbatim": whole.verbatim or None,
        "overflow": whole.overflow if "overflow" in section.model_fields_set else None,
    }
    given = {key: value for key, value in keys.items() if value is not None}
    return {"name": task.name, "kind": task.kind, **given}
