"""Tasks, one module per kind: each turns a request into engine calls, and their output into a result.

A task doesn't depend on MQTT, queues or processes; it calls the engine through one async function, ``Ask``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.learned_task import LearnedSection
from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ConfigError
from edgeslm.tasks.answer import Answer
from edgeslm.tasks.call_by_head import CallByHead
from edgeslm.tasks.classify import Classify
from edgeslm.tasks.embed import EmbedText
from edgeslm.tasks.extract import Extract
from edgeslm.tasks.generate import GenerateText
from edgeslm.tasks.search import Search
from edgeslm.tasks.summarize import Summarize
from edgeslm.tasks.task import Ask, Documents, Outcome, Task

if TYPE_CHECKING:
    from edgeslm.bundle.zero_shot import ZeroShotSection

__all__ = ["Ask", "Documents", "Outcome", "Task", "make_task"]

_KINDS: dict[str, type[Task]] = {
    task.kind: task for task in (Classify, Extract, Answer, Summarize, GenerateText, EmbedText, Search)
}


def make_task(
    name: str,
    section: TaskSection,
    bundle: Bundle | None = None,
    *,
    documents: Documents | None = None,
    context_length: int | None = None,
    zero_shot: ZeroShotSection | None = None,
) -> Task:
    """Creates the task that ``section`` describes.

    :param bundle: the trained head or adapter; its manifest supplies keys that ``section`` leaves out.
    :param documents: the node's collections.
    :param context_length: context length of the task's model, in tokens.
    :param zero_shot: the section of the task's model, if it is a zero-shot model.
    :raises ConfigError: the section lacks a key or contradicts the bundle.
    """
    learned = None if bundle is None else bundle.manifest.learned
    if bundle is not None and learned is not None and section.kind == "generate":
        if bundle.manifest.head is None or learned.kind != "extract":
            raise ConfigError([f"tasks.{name}.learned: generate takes a trained head of kind extract"])
        head = section.model_copy(
            update={"kind": "extract", **dict.fromkeys(("allow", "reply", "error_reply"))}
        )
        finder = make_task(name, head, bundle, context_length=context_length)
        return CallByHead(name, section, bundle, documents, context_length, finder=finder)
    if learned is not None:
        section = _completed(name, section, learned)
    if section.kind is None:
        raise ConfigError([f"tasks.{name}.kind: missing, and its bundle has no trained task"])
    if section.kind == "classify" and section.labels is None:
        raise ConfigError([f"tasks.{name}.labels: missing, and its adapter defines none"])
    if section.kind == "extract" and section.output_schema is None:
        raise ConfigError([f"tasks.{name}.schema: missing, and its adapter defines none"])
    of_kind = _KINDS[section.kind] if zero_shot is None else _zero_shot_kind(name, section, zero_shot)
    task = of_kind(name, section, bundle, documents, context_length)
    if (
        section.max_error is not None
        and section.kind == "extract"
        and not (task.is_head or task.is_zero_shot)
    ):
        raise ConfigError([f"tasks.{name}.max_error: a decoder's output has no confidence; remove it"])
    return task


def _zero_shot_kind(name: str, section: TaskSection, model: ZeroShotSection) -> type[Task]:
    """:raises ConfigError: the model can't do this kind of task."""
    from edgeslm.tasks.zero_shot import ZeroShotClassify, ZeroShotExtract  # memory of the parent process

    finds = model.kind == "gliner"
    if section.kind == "classify" and not finds:
        return ZeroShotClassify
    if section.kind == "extract" and finds:
        return ZeroShotExtract
    can = "finds spans, for tasks of kind extract" if finds else "labels texts, for tasks of kind classify"
    raise ConfigError([f"tasks.{name}.model: a zero-shot model of kind {model.kind} {can}"])


def _completed(name: str, section: TaskSection, learned: LearnedSection) -> TaskSection:
    """The section with missing keys filled in from the bundle's trained task.

    :raises ConfigError: the section contradicts the trained task.
    """
    if section.kind not in (None, learned.kind):
        raise ConfigError(
            [f"tasks.{name}.kind: {section.kind}, but the trained task is of kind {learned.kind}"]
        )
    if section.labels is not None and set(section.labels) != set(learned.labels):
        known = ", ".join(learned.labels)
        raise ConfigError(
            [f"tasks.{name}.labels: the trained task already defines labels {known}; remove this key"]
        )
    schema = section.output_schema
    if schema is not None and not _fields(schema) <= _fields(learned.output_schema):
        known = ", ".join(sorted(_fields(learned.output_schema))) or "no fields"
        raise ConfigError([f"tasks.{name}.schema: the trained task finds {known}; remove this key"])
    if "schema" in (section.allow or ()):
        raise ConfigError([f"tasks.{name}.allow: schema can't be set by senders: training fixed the fields"])
    if section.examples:
        raise ConfigError([f"tasks.{name}.examples: have no effect with a trained task; remove them"])
    return section.model_copy(
        update={
            "kind": learned.kind,
            "labels": dict.fromkeys(learned.labels, "") or None,
            "output_schema": section.output_schema or learned.output_schema,
            "instruction": learned.instruction,
            "verbatim": section.verbatim or learned.verbatim,
        }
    )


def _fields(schema: Mapping[str, Any] | None) -> set[str]:
    """Field names in the schema of an extract task."""
    return set((schema or {}).get("properties", ()))
