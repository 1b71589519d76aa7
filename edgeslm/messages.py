"""The values that flow through everything: a request comes in, chunks and one result go out.

Plain data. Nothing here knows JSON field names (``protocol.codec`` does), topics of a node, or models.
Times ending in ``_at`` are ``time.monotonic()`` seconds of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from edgeslm.errors import REQUEST_ERRORS, RequestError

Status = Literal["ok", "abstained", "error"]

NORMAL_PRIORITY = 5
"""Of a request that names none; 0 to 9, a higher number goes first."""
LEAST_PRIORITY = -1
"""Of what no request asked for."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request stands in a trace (W3C Trace Context): ``header`` goes out with its result, ``parent``
    is the span that it came from, 16 hexadecimal digits."""

    header: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """One piece of work for one task.

    ``input`` is the text, or an object with ``messages``: a chat for ``generate``, what ``summarize`` counts.
    ``id`` is the sender's, or one made here (``named`` tells which): it goes back in the result.
    ``reply_to`` is the topic of the result and ``correlation`` the MQTT 5 Correlation Data to return.
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
    """Who asks, as far as that can be told; None: this node itself, for a route."""
    trace: Trace | None = None
    pool: str | None = None
    """The pool that it was sent to; None: this node itself."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Why a request failed: a code of the contract and a sentence for a person."""

    code: str
    message: str
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: RequestError) -> ErrorBody:
        return cls(error.code, str(error), error.retry_after_ms)

    def exception(self) -> RequestError:
        """The same to be raised: of the class of its code, where this version knows the code."""
        return REQUEST_ERRORS.get(self.code, RequestError)(self.message, retry_after_ms=self.retry_after_ms)


@dataclass(frozen=True, slots=True)
class Truncated:
    """An input that was cut: ``kept`` of ``of`` tokens were read."""

    kept: int
    of: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a request came to; exactly one of ``result`` and ``error`` is set.

    An ``abstained`` result has a ``result`` too: what the task would say if it were surer.
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

    def unwrap(self) -> Mapping[str, Any]:
        """``result``, for those who like an error better raised than looked at.

        :raises RequestError: ``error``, as an exception: Busy, TooLong, UnknownTask ...
        """
        if self.error is not None:
            raise self.error.exception()
        return self.result or {}


class Progress(str):
    """A piece of a streamed answer that has no text: ``done`` of ``of`` steps are behind it."""

    done: int
    of: int

    def __new__(cls, done: int, of: int) -> Progress:
        piece = super().__new__(cls)
        piece.done, piece.of = done, of
        return piece


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of text on its way; ``seq`` counts from 0. Only the final result carries a promise.

    ``done`` of ``of`` parts of a long text are read, where it tells of that.
    """

    id: str
    seq: int
    text: str
    done: int | None = None
    of: int | None = None


class Attempt(Protocol):
    """Is told how far a request is, so that one that ends or freezes a process is known by it."""

    def compute(self) -> None:
        """This process or an engine works on it from now on. :raises RequestError: it may not be run."""
        ...

    def wait(self) -> None:
        """Nothing is computed for it from now on: it waits for its turn, or for a model."""
        ...

    def crash(self) -> None:
        """An engine ended while it worked on it, and is started again for another try."""
        ...

    def hang(self) -> None:
        """An engine didn't give it up and had to be ended, some time after the request had its result."""
        ...


class Turn:
    """An :class:`Attempt` of which nothing is remembered.

    ``on_turn`` is called once, when its turn has come.
    """

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
