"""Scheduler: the only request queue, with admission and backpressure, priorities, deadlines, timeouts and
cancellation.

The constructor gets the function that runs a request. Every request ends with exactly one result.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from edgeslm.errors import Busy, Cancelled, Expired, InternalError, RequestError, TimedOut
from edgeslm.messages import Attempt, ErrorBody, Request, Result
from edgeslm.serving.quotas import ClientQuotas

log = logging.getLogger("edgeslm.serving")

OnChunk = Callable[[str], None]
Run = Callable[[Request, OnChunk | None, Attempt | None], Awaitable[Result]]

WHILE_RUNNING = "cancelled while it was running"

FIRST_GUESS_S = 0.5
"""Assumed duration of a request in seconds, used for ``retry_after_ms`` until a request of the same task was
measured."""

TOKEN_CHARACTERS = 4
"""Characters of a token, as estimated for requests whose tokens weren't counted."""
_BROKEN_OFF = frozenset({"cancelled", "timeout"})

MOST_PASSED_OVER = 8
"""Maximum number of requests that overtake the oldest waiting request, or interrupt a running one. With this
limit, requests of high priority delay requests of low priority, but don't starve them."""


@dataclass(order=True, slots=True)
class _Job:
    """A waiting or running request; jobs are ordered by priority, then expiry, then arrival."""

    rank: tuple[int, float, int]
    request: Request = field(compare=False)
    on_chunk: OnChunk | None = field(compare=False)
    attempt: Attempt | None = field(compare=False)
    result: asyncio.Future[Result] = field(compare=False)
    work: asyncio.Task[None] | None = field(compare=False, default=None)
    begun: bool = field(compare=False, default=False)
    interruptions: int = field(compare=False, default=0)
    pieces: int = field(compare=False, default=0)

    @property
    def usage(self) -> Mapping[str, int]:
        """The tokens that count for the sender's quota. Of a request that was cancelled while it ran, they
        are estimated: senders could otherwise take most of a stream for nothing."""
        result = self.result.result() if self.result.done() and not self.result.cancelled() else None
        is_broken_off = result is None or (result.error is not None and result.error.code in _BROKEN_OFF)
        if self.begun and is_broken_off:
            return {"estimated": self.pieces + len(str(self.request.input)) // TOKEN_CHARACTERS}
        return {} if result is None else result.usage

    @property
    def waits(self) -> bool:
        return self.work is None and not self.result.done()


class Scheduler:
    """Runs up to ``slots`` requests at a time, with up to ``limit`` waiting.

    ``slots`` is 1 unless a model has more workers. One more request may start if its priority is above that
    of all running requests, since the engine interrupts these between two steps (``engine.worker``).
    """

    def __init__(
        self,
        run: Run,
        *,
        limit: int,
        timeout_s: float,
        slots: int = 1,
        quotas: ClientQuotas | None = None,
    ) -> None:
        self._run = run
        self._quotas = quotas
        self.limit = limit
        """Maximum number of waiting requests."""
        self._timeout_s = timeout_s
        self.slots = slots
        """Maximum number of requests that run at a time. One urgent request may run in addition."""
        self._waiting: list[_Job] = []
        self._arrived: deque[_Job] = deque()
        self._running: dict[asyncio.Task[None], _Job] = {}
        self._jobs: dict[int, _Job] = {}
        self._arrivals = itertools.count()
        self._passed_over = 0
        self._paused = False
        self._service_s: dict[str, float] = {}
        self.moved_at = time.monotonic()
        """Time of the last progress, which is the start or end of a request, or a piece of streamed text."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def resize(self, *, limit: int, slots: int) -> None:
        """Changes the maximum numbers of waiting and running requests; waiting requests may start at once."""
        self.limit, self.slots = limit, slots
        self._fill_slots()

    @property
    def wait_s(self) -> float:
        """Estimated seconds until all waiting requests are done, from the durations of earlier requests."""
        return sum(self._guess_s(job.request, FIRST_GUESS_S) for job in self._waiting) / self.slots

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def submit(
        self, request: Request, on_chunk: OnChunk | None = None, attempt: Attempt | None = None
    ) -> Result:
        """Queues and runs a request; request errors are results, never exceptions.

        ``attempt`` records when the request starts, and is also passed to the function that runs the request.
        """
        number = next(self._arrivals)
        rank = (-request.priority, request.expires_at or math.inf, number)
        try:
            self._admit(request, rank)
            if self._quotas is not None and request.sender is not None:
                self._quotas.admit(request.sender, lambda: self.wait_s)
        except RequestError as error:
            return error_result(request, error)
        loop = asyncio.get_running_loop()
        job = _Job(rank, request, on_chunk, attempt, loop.create_future())
        self._jobs[number] = job
        heapq.heappush(self._waiting, job)
        self._arrived.append(job)
        self._fill_slots()
        expiry = None
        if request.expires_at is not None:
            expiry = loop.call_at(request.expires_at, self._expire, job)  # the loop uses time.monotonic() too
        try:
            return await job.result
        except asyncio.CancelledError:
            self._cancel(job)  # nobody reads the result
            raise
        finally:
            del self._jobs[number]
            if self._quotas is not None and request.sender is not None:
                self._quotas.settle(request.sender, job.usage)
            if expiry is not None:
                expiry.cancel()

    def _admit(self, request: Request, rank: tuple[int, float, int]) -> None:
        """:raises RequestError: the queue is full, or the request would expire before its result is ready."""
        now = time.monotonic()
        if request.expires_at is not None and request.expires_at <= now:
            raise Expired("it had expired when it arrived")
        if self._is_hopeless(request, now):
            raise Expired("it takes longer than the time that is left")
        if len(self._waiting) >= self.limit:
            message = f"{len(self._waiting)} requests are waiting, which is the limit; try again later"
            raise Busy(message, retry_after_ms=math.ceil(self.wait_s * 1000))
        if request.expires_at is None or not self._waiting:
            return
        # Tasks that never ran count as 0: a guess might refuse what can be done in time.
        wait_s = sum(self._guess_s(job.request) for job in self._waiting if job.rank < rank) / self.slots
        if now + wait_s > request.expires_at:
            message = (
                f"its turn would come in about {wait_s:.1f} s, and it expires in "
                f"{request.expires_at - now:.1f} s; allow more time, or try again later"
            )
            raise Busy(message, retry_after_ms=math.ceil(wait_s * 1000))

    def _is_hopeless(self, request: Request, now: float) -> bool:
        """Whether a request would expire while it runs. Only half of the usual duration is assumed, since
        durations vary with the text."""
        guess_s = self._guess_s(request)
        if request.expires_at is None or now + guess_s / 2 <= request.expires_at:
            return False
        # Decay, so that one slow run, such as the first after loading, doesn't refuse all others forever.
        self._service_s[request.task] = guess_s * 0.8
        return True

    def _guess_s(self, request: Request, unknown_s: float = 0.0) -> float:
        """Estimated duration of a request in seconds, from earlier requests of its task."""
        return self._service_s.get(request.task, unknown_s)

    def pause(self) -> None:
        """Starts no more requests until :meth:`resume`. The pause doesn't count towards the timeout of
        waiting requests."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.moved_at = time.monotonic()
        self._fill_slots()

    def cancel(self, matches: Callable[[Request], bool]) -> int:
        """Cancels all waiting and running requests that match.

        :return: the number of these requests.
        """
        chosen = [job for job in self._jobs.values() if matches(job.request) and not job.result.done()]
        for job in chosen:
            self._cancel(job)
        return len(chosen)

    def _cancel(self, job: _Job) -> None:
        if job.work is not None and job.begun:
            job.work.cancel()
        else:
            self._give_up(job, Cancelled("cancelled while it was waiting"))

    def _expire(self, job: _Job) -> None:
        """Ends a request that expired while waiting; a running request has its own timeout."""
        if not job.begun:
            waited_s = time.monotonic() - job.request.received_at
            self._give_up(job, Expired(f"it expired after waiting {waited_s:.1f} s"))

    def _give_up(self, job: _Job, error: RequestError) -> None:
        """Ends a job that has not begun."""
        if job in self._waiting:
            self._waiting.remove(job)
            heapq.heapify(self._waiting)
        self._finish(job, error_result(job.request, error))

    def _fill_slots(self) -> None:
        while self._waiting and not self._paused:
            if len(self._running) < self.slots:
                job = self._next()
            elif len(self._running) == self.slots and self._is_urgent(self._waiting[0]):
                job = heapq.heappop(self._waiting)
                for other in self._running.values():
                    other.interruptions += 1
            else:
                return
            job.work = asyncio.create_task(self._work(job))
            self._running[job.work] = job

    def _is_urgent(self, job: _Job) -> bool:
        """Whether the job's priority is above that of all running requests, and none of these was interrupted
        too often."""
        running = self._running.values()
        return all(
            job.request.priority > other.request.priority and other.interruptions < MOST_PASSED_OVER
            for other in running
        )

    def _next(self) -> _Job:
        while self._arrived and not self._arrived[0].waits:
            self._arrived.popleft()
        oldest = self._arrived[0] if self._arrived else self._waiting[0]
        if oldest is self._waiting[0] or self._passed_over < MOST_PASSED_OVER:
            job = heapq.heappop(self._waiting)
            self._passed_over = 0 if job is oldest else self._passed_over + 1
            return job
        self._passed_over = 0
        self._waiting.remove(oldest)
        heapq.heapify(self._waiting)
        return oldest

    async def _work(self, job: _Job) -> None:
        try:
            result = await self._result_of(job)
            if result is not None:
                self._finish(job, result)
        finally:
            if job.work is not None:
                del self._running[job.work]
            self._fill_slots()

    async def _result_of(self, job: _Job) -> Result | None:
        """Runs a job and returns its result; None if the job had already ended while waiting."""
        now = time.monotonic()
        request = job.request
        self.moved_at = now
        if self._is_hopeless(request, now):
            self._expire(job)
        if job.result.done():
            return None
        job.begun = True
        left_s = min(self._timeout_s, (request.expires_at or math.inf) - now)
        is_late = False

        def time_out() -> None:
            nonlocal is_late
            is_late = True
            self._cancel(job)

        limit = asyncio.get_running_loop().call_later(left_s, time_out)
        try:
            if job.attempt is not None:
                job.attempt.compute()
            result = await self._run(request, self._watch_progress(job), job.attempt)
            if not job.interruptions:
                took_s = time.monotonic() - now
                self._service_s[request.task] = self._guess_s(request, took_s) * 0.9 + took_s * 0.1
        except asyncio.CancelledError:
            why = TimedOut(f"not done after {left_s:.1f} s") if is_late else Cancelled(WHILE_RUNNING)
            result = error_result(request, why)
        except RequestError as error:
            result = error_result(request, error)
        except Exception as error:
            result = error_result(request, _internal(request, error))
        finally:
            limit.cancel()
        return result

    def _watch_progress(self, job: _Job) -> OnChunk | None:
        """Wraps ``on_chunk`` so that each piece of streamed text counts as progress."""
        if (on_chunk := job.on_chunk) is None:
            return None

        def pass_on(text: str) -> None:
            self.moved_at = time.monotonic()
            job.pieces += 1
            on_chunk(text)

        return pass_on

    def _finish(self, job: _Job, result: Result) -> None:
        self.moved_at = time.monotonic()
        if not job.result.done():
            job.result.set_result(result)


def _internal(request: Request, error: Exception) -> InternalError:
    # Only the type: the exception's text may quote the message, which must not be logged.
    log.error("request %s of task %s failed: %s", request.id, request.task, type(error).__name__)
    log.debug("request %s", request.id, exc_info=error)
    return InternalError(f"the node failed on it ({type(error).__name__})")


def error_result(request: Request, error: RequestError) -> Result:
    """A result that reports ``error``."""
    total_ms = (time.monotonic() - request.received_at) * 1000 if request.received_at else 0.0
    return Result(
        request.id, request.task, "error", error=ErrorBody.of(error), timings_ms={"total": total_ms}
    )
