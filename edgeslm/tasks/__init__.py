"""One file per kind of task: a request becomes engine calls, engine output becomes a result.

A task knows nothing of MQTT, queues or processes; it sees the engine as one async function.
"""

from __future__ import annotations

from edgeslm.bundle import HeadSection
from edgeslm.config import Task as TaskSection
from edgeslm.tasks.answer import Answer
from edgeslm.tasks.classify import Classify
from edgeslm.tasks.embed import EmbedText
from edgeslm.tasks.extract import Extract
from edgeslm.tasks.generate import GenerateText
from edgeslm.tasks.summarize import Summarize
from edgeslm.tasks.task import Ask, Outcome, Task

__all__ = ["Ask", "Outcome", "Task", "make_task"]

_KINDS: dict[str, type[Task]] = {
    task.kind: task for task in (Classify, Extract, Answer, Summarize, GenerateText, EmbedText)
}


def make_task(
    name: str, section: TaskSection, head: HeadSection | None = None, head_digest: str | None = None
) -> Task:
    """The task that ``section`` describes; ``head`` is what its ``learned`` folder brings."""
    kind = section.kind or "classify"  # a learned task may leave its kind out, and only classify is learned
    return _KINDS[kind](name, section, head, head_digest)
