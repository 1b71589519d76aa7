"""Errors: the exception tree of the project, and the wire codes of request errors.

::

    EdgeslmError                     the root; its text is a sentence for users
    ├── ConfigError                  invalid configuration file; lists every problem
    ├── TemplateError                a route's template doesn't compile or doesn't fit a message
    ├── BundleError                  a bundle is missing, damaged or of an unknown format
    │   └── SelfTestError            a bundle gives other outputs than on the build machine
    ├── KnowledgeError               an unreadable document, an unusable collection
    ├── BrokerError                  the connection to the broker failed
    ├── JournalError                 the journal can't be written, such as on a full disk
    ├── FeedbackError                feedback can't be stored: full disk, full file
    ├── ProvisionError               keys, certificates or an access list can't be created
    ├── RolloutError                 a rollout server is unreachable or its answer is invalid
    ├── ProtocolError                a message that is invalid on its topic
    ├── ShapeError                   a model's config doesn't give its sizes
    ├── BoardError                   a board profile is missing or invalid, or measuring failed
    ├── ExportError                  build machine: a source or a step of the export
    └── RequestError                 answered with an error result; ``code`` goes on the wire
        ├── InvalidRequest           invalid_request
        ├── UnknownTask              unknown_task
        ├── TooLarge                 too_large: over the limit in bytes
        ├── TooLong                  too_long: over the model's limit in tokens
        ├── Busy                     busy: carries ``retry_after_ms``
        ├── Expired                  expired: past its deadline
        ├── Cancelled                cancelled
        ├── TimedOut                 timeout
        ├── NoMemory                 no_memory
        ├── ModelUnavailable         model_unavailable
        ├── Poisoned                 poisoned: crashed or hung a process more than once
        └── InternalError            internal
"""

from __future__ import annotations

import errno
import re
from typing import ClassVar, Final

_PATH: Final = re.compile(r"(?<![\w:/.])/(?:[^\s/:,;'\"]+/)*([^\s/:,;'\"]+)")


class EdgeslmError(Exception):
    """Root of all errors. The text is a sentence that says what is wrong and what to change."""


class ConfigError(EdgeslmError):
    """The configuration file is invalid.

    ``problems`` lists every problem as ``file:line: key: sentence``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TemplateError(EdgeslmError):
    """A route's template doesn't compile, or can't be rendered for this message."""


class BundleError(EdgeslmError):
    """A bundle can't be used; the error's text names the file."""


class SelfTestError(BundleError):
    """A bundle gives other outputs on this machine than on the build machine."""


class KnowledgeError(EdgeslmError):
    """A document can't be read, or a collection can't be used. The error's text names the document or
    collection."""


class BrokerError(EdgeslmError):
    """The broker is unreachable, refuses the connection or lacks a required feature."""


class JournalError(EdgeslmError):
    """The journal, which must survive a restart, can't be written."""


class FeedbackError(EdgeslmError):
    """Feedback can't be stored."""


class ProvisionError(EdgeslmError):
    """Keys, certificates or an access list can't be created; the error's text names the file or the grant."""


class RolloutError(EdgeslmError):
    """The rollout server can't be reached, or its answer is invalid."""


class ProtocolError(EdgeslmError):
    """A message isn't valid for its topic, such as a result that can't be parsed."""


class ShapeError(EdgeslmError):
    """A model's configuration file doesn't give the sizes of the model's layers."""


class BoardError(EdgeslmError):
    """A board profile is missing or invalid, or this machine can't be measured."""


class ExportError(EdgeslmError):
    """A model can't be turned into a bundle."""


class RequestError(EdgeslmError):
    """Failure of a request; the sender gets an error result."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class InvalidRequest(RequestError):
    """The task doesn't accept this message; the sender must be fixed."""

    code = "invalid_request"


class UnknownTask(RequestError):
    """The node has no task with this name."""

    code = "unknown_task"


class TooLarge(RequestError):
    """The message has more bytes than the node or the broker accepts."""

    code = "too_large"


class TooLong(RequestError):
    """The input has more tokens than the model accepts, or the answer exceeds its limit."""

    code = "too_long"


class Busy(RequestError):
    """The queue is full; retry after ``retry_after_ms``."""

    code = "busy"


class Expired(RequestError):
    """The request's deadline has passed."""

    code = "expired"


class Cancelled(RequestError):
    """The request was cancelled."""

    code = "cancelled"


class TimedOut(RequestError):
    """The request exceeded its time limit, or no result came in time."""

    code = "timeout"


class NoMemory(RequestError):
    """There is too little memory for the request."""

    code = "no_memory"


class ModelUnavailable(RequestError):
    """The model isn't loaded; retry later."""

    code = "model_unavailable"


class Poisoned(RequestError):
    """The request crashed or hung the engine or the node more than once and isn't run again."""

    code = "poisoned"


class InternalError(RequestError):
    """A bug in the node."""

    code = "internal"


PASSED_ON: Final = (ModelUnavailable, NoMemory, TooLong)
"""Errors of a stage after which a cascade asks the next stage."""

DISPENSABLE: Final = (ModelUnavailable, Poisoned, NoMemory, InternalError)
"""Errors of an optional model, such as a reranker, after which the search goes on without the model."""
NO_ANSWER: Final = (TooLong, TimedOut, NoMemory, ModelUnavailable, InternalError)
"""Errors that mean that no model answered a valid, uncancelled request.

``Poisoned`` is not among them, since somebody has to investigate a poisoned request."""

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
"""Wire code -> class; worker processes send errors by code."""


def without_paths(sentence: str) -> str:
    """Shortens each absolute path to its last part, so that messages on the bus don't reveal local
    folders."""
    return _PATH.sub(r"\1", sentence)


def plural(count: int, noun: str) -> str:
    """A count with its noun, such as ``1 document`` or ``2 documents``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def too_little_memory(error: Exception) -> str | None:
    """A sentence for users if ``error`` means out of memory, else None.

    Threads, libraries and processes each report a lack of memory differently.
    """
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN))
        or (isinstance(error, RuntimeError) and "can't start new thread" in text)
        # CPython says this where it has no memory for a MemoryError.
        or (isinstance(error, SystemError) and ("without exception" in text or "without setting" in text))
        or (isinstance(error, ImportError) and ("failed to map" in text or "cannot allocate" in text.lower()))
    ):
        return (
            f"There is too little memory ({text or 'none could be had'}): free some, or raise the limits of "
            "this process: MemoryMax= and TasksMax= of a service, `ulimit -v` and `ulimit -u` of a shell."
        )
    return None
