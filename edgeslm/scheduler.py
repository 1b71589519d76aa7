"""The only queue: admission, priority, deadline, time-out, cancel.

It knows requests and results; what running one means is handed in. Every request that enters leaves with
exactly one result, whatever happens to it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from edgeslm.errors import Busy, Cancelled, Expired, InternalError, RequestError, TimedOut
from edgeslm.messages import ErrorBody, Request, Result

log = logging.getLogger("edgeslm.scheduler")

OnChunk = Callable[[str], None]
Run = Callable[[Request, OnChunk | None], Awaitable[Result]]

FIRST_GUESS_S = 0.5
"""Service time assumed before the first request was measured."""


@dataclass(order=True, slots=True)
class _Job:
    """Ordered by priority, then by who expires first, then by arrival."""

    rank: tuple[int, float, int]
    request: Request = field(compare=False)
    on_chunk: OnChunk | None = field(compare=False)
    result: asyncio.Future[Result] = field(compare=False)
    work: asyncio.Task[Result] | None = field(compare=False, default=None)


class Scheduler:
    """Runs requests, at most ``slots`` at a time, the others waiting in a queue of ``limit``.

    One worker computes at a time on a small board, so ``slots`` is 1 unless the board has cores for more.
    """

    def __init__(self, run: Run, *, limit: int, timeout_s: float, slots: int = 1) -> None:
        self._run = run
        self._limit = limit
        self._timeout_s = timeout_s
        self._slots = slots
        self._waiting: list[_Job] = []
        self._running: set[asyncio.Task[None]] = set()
        self._jobs: dict[int, _Job] = {}
        self._arrivals = itertools.count()
        self._service_s = FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def submit(self, request: Request, on_chunk: OnChunk | None = None) -> Result:
        """Waits its turn and runs; never raises for the request's sake: errors are results."""
        if request.expires_at is not None and request.expires_at <= time.monotonic():
            return error_result(request, Expired("it had expired when it arrived"))
        if len(self._waiting) >= self._limit:
            wait_ms = math.ceil(len(self._waiting) * self._service_s / self._slots * 1000)
            message = f"{len(self._waiting)} requests are waiting, which is the limit; try again later"
            return error_result(request, Busy(message, retry_after_ms=wait_ms))
        number = next(self._arrivals)
        rank = (-request.priority, request.expires_at or math.inf, number)
        loop = asyncio.get_running_loop()
        job = _Job(rank, request, on_chunk, loop.create_future())
        self._jobs[number] = job
        heapq.heappush(self._waiting, job)
        self._fill_slots()
        expiry = None
        if request.expires_at is not None:
            expiry = loop.call_at(request.expires_at, self._expire, job)  # its clock is time.monotonic() too
        try:
            return await job.result
        except asyncio.CancelledError:
            self._cancel(job)  # nobody is left to read the result
            raise
        finally:
            del self._jobs[number]
            if expiry is not None:
                expiry.cancel()

    def cancel(self, matches: Callable[[Request], bool]) -> int:
        """Cancels every request that ``matches``, waiting or running, and says how many those were."""
        chosen = [job for job in self._jobs.values() if matches(job.request) and not job.result.done()]
        for job in chosen:
            self._cancel(job)
        return len(chosen)

    async def drain(self, limit_s: float) -> bool:
        """Waits until all is done; false when ``limit_s`` ran out first."""
        futures = [job.result for job in self._jobs.values()]
        if not futures:
            return True
        _, left = await asyncio.wait(futures, timeout=limit_s)
        return not left

    def _cancel(self, job: _Job) -> None:
        if job.work is not None:
            job.work.cancel()
        else:
            self._give_up(job, Cancelled("cancelled while it was waiting"))

    def _expire(self, job: _Job) -> None:
        """The end of a request that waits; one that runs has its own time-out."""
        if job.work is None:
            waited_s = time.monotonic() - job.request.received_at
            self._give_up(job, Expired(f"it expired after waiting {waited_s:.1f} s"))

    def _give_up(self, job: _Job, error: RequestError) -> None:
        """Ends a job that has not begun: it waits, or its turn has just come."""
        if job in self._waiting:
            self._waiting.remove(job)
            heapq.heapify(self._waiting)
        self._finish(job, error_result(job.request, error))

    def _fill_slots(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            job = heapq.heappop(self._waiting)
            task = asyncio.create_task(self._work(job))
            self._running.add(task)
            task.add_done_callback(self._slot_freed)

    def _slot_freed(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._fill_slots()

    async def _work(self, job: _Job) -> None:
        now = time.monotonic()
        request = job.request
        if request.expires_at is not None and request.expires_at <= now:
            self._expire(job)
        if job.result.done():
            return
        left_s = min(self._timeout_s, (request.expires_at or math.inf) - now)
        limit = asyncio.timeout(left_s)
        try:
            async with limit:
                job.work = asyncio.ensure_future(self._run(request, job.on_chunk))
                result = await job.work
            self._service_s += 0.1 * (time.monotonic() - now - self._service_s)
        except asyncio.CancelledError:
            result = error_result(request, Cancelled("cancelled while it was running"))
        except RequestError as error:
            result = error_result(request, error)
        except Exception as error:
            late = limit.expired()
            why = TimedOut(f"not done after {left_s:.1f} s") if late else _internal(request, error)
            result = error_result(request, why)
        self._finish(job, result)

    def _finish(self, job: _Job, result: Result) -> None:
        if not job.result.done():
            job.result.set_result(result)


def _internal(request: Request, error: Exception) -> InternalError:
    # The type alone: an exception's text may quote the message, and texts don't go to logs.
    log.error("request %s of task %s failed: %s", request.id, request.task, type(error).__name__)
    log.debug("request %s", request.id, exc_info=error)
    return InternalError(f"the node failed on it ({type(error).__name__})")


def error_result(request: Request, error: RequestError) -> Result:
    """The result that says why there is none."""
    total_ms = (time.monotonic() - request.received_at) * 1000 if request.received_at else 0.0
    return Result(
        request.id, request.task, "error", error=ErrorBody.of(error), timings_ms={"total": total_ms}
    )
