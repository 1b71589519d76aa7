"""Requests, chunks and results as dataclasses. Each request gets exactly one result, and also chunks if the
answer is streamed.

``protocol.codec`` converts requests and results from and to JSON. Times ending in ``_at`` are
``time.monotonic()`` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from edgeslm.errors import REQUEST_ERRORS, RequestError

Status = Literal["ok", "abstained", "error"]

NORMAL_PRIORITY = 5
"""Default priority of requests; priorities are 0 to 9, and higher ones go first."""
DIRECT = "#api/"
"""Start of the reply topic of requests that came over HTTP, before the client's name. No MQTT topic begins
like this."""
LEAST_PRIORITY = -1
"""Priority of background work, which is below that of every request."""


@dataclass(frozen=True, slots=True)
class Trace:
    """W3C Trace Context of a request. ``header`` is the ``traceparent`` header, which is sent with the
    result; ``parent`` is the id of the sender's span (16 hexadecimal digits)."""

    header: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request for one task.

    ``input`` is a text, or an object with ``messages``: a chat for ``generate``, log lines for ``summarize``.
    ``id`` is returned in the result. ``named`` is true if the sender has set the id; otherwise, the id was
    generated. ``reply_to`` is the topic of the result; ``correlation`` is the MQTT 5 Correlation Data to
    return.
    """

    task: str
    input: str | Mapping[str, Any]
    id: str
    reply_to: str
    named: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    correlation: bytes | None = None
    priority: int = NORMAL_PRIORITY
    received_at: float = 0.0
    expires_at: float | None = None
    sender: str | None = None
    """The sender's name, taken from the reply topic; empty without a reply topic, and None if this node made
    the request for a route."""
    trace: Trace | None = None
    pool: str | None = None
    """The pool that the request was sent to; None if it was sent to this node."""
    source: str | None = None
    """The topic of the message that a route read; None for windows and for requests."""

    @property
    def is_direct(self) -> bool:
        """Whether the request came over HTTP instead of MQTT."""
        return self.reply_to.startswith(DIRECT)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Why a request failed: a wire code and a sentence for users."""

    code: str
    message: str
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: RequestError) -> ErrorBody:
        return cls(error.code, str(error), error.retry_after_ms)

    def exception(self) -> RequestError:
        """The exception for this code, or :class:`RequestError` if the code is unknown."""
        return REQUEST_ERRORS.get(self.code, RequestError)(self.message, retry_after_ms=self.retry_after_ms)


@dataclass(frozen=True, slots=True)
class Truncated:
    """The input was truncated: it has ``of`` tokens, of which the model read ``kept``."""

    kept: int
    of: int


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a request; exactly one of ``result`` and ``error`` is set.

    With status ``abstained``, ``result`` holds the answer that fell below the threshold. ``topic`` is that of
    the message that a route read.
    """

    id: str
    task: str
    status: Status
    result: Mapping[str, Any] | None = None
    error: ErrorBody | None = None
    model: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    truncated: Truncated | None = None
    topic: str | None = None

    def unwrap(self) -> Mapping[str, Any]:
        """Returns ``result``, or raises ``error``.

        :raises RequestError: a subclass, such as Busy, TooLong or UnknownTask.
        """
        if self.error is not None:
            raise self.error.exception()
        return self.result or {}


class Progress(str):
    """A piece of a streamed answer that has no text but reports progress: ``done`` steps are finished, and
    ``of`` is the total number of steps."""

    done: int
    of: int

    def __new__(cls, done: int, of: int) -> Progress:
        piece = super().__new__(cls)
        piece.done, piece.of = done, of
        return piece


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; ``seq`` counts from 0. Only the final result is guaranteed to arrive.

    In a progress report on a long text, ``done`` is the number of parts that have been read, and ``of`` the
    total number of parts. In other chunks, ``done`` and ``of`` are None.
    """

    id: str
    seq: int
    text: str
    done: int | None = None
    of: int | None = None


class Attempt(Protocol):
    """Records the progress of one request, to find the request that crashed or froze a process."""

    def compute(self) -> None:
        """Records that computing the request starts. :raises RequestError: the request must not run."""
        ...

    def wait(self) -> None:
        """Records that the request isn't being computed but waits in the queue or for a model."""
        ...

    def crash(self) -> None:
        """Records that the engine crashed on the request, which is retried on a new engine."""
        ...

    def hang(self) -> None:
        """Records that the engine kept computing after the result was sent and had to be killed."""
        ...


class Turn:
    """An :class:`Attempt` that records nothing; calls ``on_turn`` once, when the request starts after waiting
    in the queue."""

    def __init__(self, on_turn: Callable[[], None] | None = None) -> None:
        self.on_turn = on_turn
        self._has_waited = self._has_run = False

    def compute(self) -> None:
        if self._has_waited and not self._has_run:
            self._has_run = True
            if self.on_turn is not None:
                self.on_turn()

    def wait(self) -> None:
        self._has_waited = True

    def crash(self) -> None:
        pass

    def hang(self) -> None:
        pass
