"""Every error of the project, in one tree.

::

    EdgeslmError                     one plain sentence for a person
    ├── ConfigError                  the configuration file; holds every problem found
    ├── TemplateError                a route's template: doesn't compile, or doesn't fit a message
    ├── BundleError                  a bundle that is missing, damaged or not understood
    │   └── SelfTestError            one that computes something else here than on the build machine
    ├── KnowledgeError               a document that can't be read, a collection that can't be used
    ├── BrokerError                  the connection to the broker can't be made or kept
    ├── JournalError                 what must survive a restart can't be written: a full disk
    ├── FeedbackError                a correction that can't be kept: a full disk, a full file
    ├── ProvisionError               keys, certificates or an access list that can't be made
    ├── RolloutError                 a rollout's server that can't be asked, or says what isn't understood
    ├── ProtocolError                bytes from the bus that aren't what their topic says
    ├── ShapeError                   a config from which a model's sizes can't be told
    ├── BoardError                   a board profile that isn't there or can't be read or measured
    ├── ExportError                  the build machine: a source or a step of the export
    └── RequestError                 a request that gets an error result; ``code`` goes on the wire
        ├── InvalidRequest           invalid_request
        ├── UnknownTask              unknown_task
        ├── TooLarge                 too_large: more bytes than the node takes
        ├── TooLong                  too_long: more tokens than the model takes
        ├── Busy                     busy: carries ``retry_after_ms``
        ├── Expired                  expired: the sender no longer waits
        ├── Cancelled                cancelled
        ├── TimedOut                 timeout
        ├── NoMemory                 no_memory
        ├── ModelUnavailable         model_unavailable
        ├── Poisoned                 poisoned: it crashed the engine more than once
        └── InternalError            internal
"""

from __future__ import annotations

import errno
import re
from typing import ClassVar, Final

_PATH: Final = re.compile(r"(?<![\w:/.])/(?:[^\s/:,;'\"]+/)*([^\s/:,;'\"]+)")


class EdgeslmError(Exception):
    """The root: its text is a sentence that says what is wrong and what to change."""


class ConfigError(EdgeslmError):
    """The configuration file is wrong.

    ``problems`` are lines ``file:line: key: sentence``, all that were found.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TemplateError(EdgeslmError):
    """A route's template doesn't compile, or can't be filled in for this message."""


class BundleError(EdgeslmError):
    """A bundle can't be used; the sentence names the file."""


class SelfTestError(BundleError):
    """A bundle says other things on this machine than it said on the build machine."""


class KnowledgeError(EdgeslmError):
    """A document can't be read, or a collection can't be used; the sentence names it."""


class BrokerError(EdgeslmError):
    """The broker can't be reached, refuses us or lacks what is needed."""


class JournalError(EdgeslmError):
    """What must survive a restart can't be written down."""


class FeedbackError(EdgeslmError):
    """A correction can't be kept."""


class ProvisionError(EdgeslmError):
    """Keys, certificates or an access list can't be made; the sentence names the file or the grant."""


class RolloutError(EdgeslmError):
    """The server of a rollout can't be asked, or says what nobody understands."""


class ProtocolError(EdgeslmError):
    """Bytes from the bus aren't what their topic says: no result, no state."""


class ShapeError(EdgeslmError):
    """The sizes of a model can't be told from its config."""


class BoardError(EdgeslmError):
    """There is no such board profile, or it can't be read, or this machine can't be measured."""


class ExportError(EdgeslmError):
    """A model can't be turned into a bundle."""


class RequestError(EdgeslmError):
    """A request that is answered with an error result."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class InvalidRequest(RequestError):
    """The message is no request that this task takes; mend the sender."""

    code = "invalid_request"


class UnknownTask(RequestError):
    """The node has no task of that name."""

    code = "unknown_task"


class TooLarge(RequestError):
    """More bytes than the node, or the broker, takes."""

    code = "too_large"


class TooLong(RequestError):
    """More tokens than the model takes, or an answer that doesn't fit."""

    code = "too_long"


class Busy(RequestError):
    """The node has enough to do; try again after ``retry_after_ms``."""

    code = "busy"


class Expired(RequestError):
    """The time in which the sender wanted it has passed."""

    code = "expired"


class Cancelled(RequestError):
    """Somebody cancelled it."""

    code = "cancelled"


class TimedOut(RequestError):
    """It took longer than it may, or no result came in time."""

    code = "timeout"


class NoMemory(RequestError):
    """There is no memory for it."""

    code = "no_memory"


class ModelUnavailable(RequestError):
    """The model isn't loaded; try again later."""

    code = "model_unavailable"


class Poisoned(RequestError):
    """It ended the engine more than once and isn't run again."""

    code = "poisoned"


class InternalError(RequestError):
    """A mistake of the node's."""

    code = "internal"


PASSED_ON: Final = (ModelUnavailable, NoMemory, TooLong)
"""What says that this stage of a task can't, and nothing of the request."""

DISPENSABLE: Final = (ModelUnavailable, Poisoned, NoMemory, InternalError)
"""What a model can raise that only helps: a search does without it."""
NO_ANSWER: Final = (TooLong, TimedOut, NoMemory, ModelUnavailable, InternalError)
"""What says that no model answered, for no fault of the request and at nobody's wish. What is poisoned is not
among them: somebody has to look at that."""

REQUEST_ERRORS: dict[str, type[RequestError]] = {
    cls.code: cls
    for cls in (
        InvalidRequest,
        UnknownTask,
        TooLarge,
        TooLong,
        Busy,
        Expired,
        Cancelled,
        TimedOut,
        NoMemory,
        ModelUnavailable,
        Poisoned,
        InternalError,
    )
}
"""Wire code -> class: how an error crosses the pipe from a worker."""


def without_paths(sentence: str) -> str:
    """For others on the bus: of each absolute path the last name alone, since where things lie here is nobody
    else's business."""
    return _PATH.sub(r"\1", sentence)


def too_little_memory(error: Exception) -> str | None:
    """What to say if it means that: threads, libraries and processes fail for want of it each in its way."""
    said = str(error)
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN))
        or (isinstance(error, RuntimeError) and "can't start new thread" in said)
        or (isinstance(error, ImportError) and ("failed to map" in said or "cannot allocate" in said.lower()))
    ):
        return (
            f"There is too little memory ({said or 'none could be had'}): free some, or raise the limits of "
            "this process: MemoryMax= and TasksMax= of a service, `ulimit -v` and `ulimit -u` of a shell."
        )
    return None
