"""Event loop with virtual time for many simulated processes in one thread.

The loop never blocks: if nothing is ready, the clock jumps to the next timer. Each callback belongs to the
process in whose context it was scheduled (:data:`PROCESS`), so that a killed process never runs again, as
after ``kill -9``. Runs are deterministic: tasks and futures hash by their number, not by their address.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine, Iterable
from contextlib import _AsyncGeneratorContextManager
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from types import FrameType
from typing import Any

import edgeslm

STEP_S = 2e-5
"""Virtual time that each callback takes."""
EPOCH_S = 1_700_000_000.0
"""Wall-clock time at the start of a run."""


Place = tuple[str, int, int]
"""Part of the code: file, first line and last line."""


PRODUCT = str(Path(edgeslm.__file__).parent)
"""Folder of the product that runs: the checkout's or the installed one."""
MOST_FINALLY = 8
"""Number of nested ``finally`` blocks with awaits that a killed coroutine may have."""


class Killed(BaseException):
    """Ends the rest of a step of a process that was killed within it."""


class Process:
    """What was started together and dies together: its tasks, timers and callbacks.

    ``kill_in`` is the number of further steps after which the process is killed; ``on_kill`` is called then.
    ``kill_at`` maps places of the code to the number of the visit at which it is killed.
    """

    def __init__(self, name: str, kill_at: dict[Place, int] | None = None) -> None:
        self.name = name
        self.kill_at = kill_at if kill_at is not None else {}
        self.is_dead = False
        self.steps = 0
        self.kill_in: int | None = None
        self.kill_in_statements: int | None = None
        self.killed_at: list[tuple[str, int]] = []
        self.on_kill: Callable[[], None] = lambda: None
        self.tasks: dict[SimTask, None] = {}
        self.context = copy_context()
        self.context.run(PROCESS.set, self)

    def points(self, *, only: asyncio.Task[Any] | None = None) -> list[tuple[str, int]]:
        """Files and lines of the awaits at which the tasks wait, innermost last."""
        tasks = [only] if only is not None else list(self.tasks)
        return [point for task in tasks for point in await_points(task)]

    def is_at(self, points: Iterable[tuple[str, int]]) -> bool:
        """Counts a visit of each place of ``kill_at`` that has one of the points. :return: whether the
        process is to be killed here; then the place is removed."""
        here = [point for point in points if point[0].startswith(PRODUCT)]
        for place in list(self.kill_at) if here else ():
            if not any(_has(place, *point) for point in here):
                continue
            self.kill_at[place] -= 1
            if self.kill_at[place] <= 0:
                del self.kill_at[place]
                return True
        return False


def _has(place: Place, file: str, line: int) -> bool:
    return place[0] == file and place[1] <= line <= place[2]


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)


OUTSIDE = Context()
"""The context outside all processes."""


def await_points(task: asyncio.Task[Any]) -> list[tuple[str, int]]:
    points = []
    for inner in _chain(task):
        frame: FrameType | None = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None:
            points.append((frame.f_code.co_filename, frame.f_lineno))
    return points


def _chain(task: asyncio.Task[Any]) -> list[Any]:
    """The coroutines and asynchronous generators that a task waits in, the innermost last."""
    chain = []
    inner: Any = task.get_coro()
    while inner is not None:
        chain.append(inner)
        inner = _managed(inner) or getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
    return chain


def _managed(coroutine: Any) -> Any:
    """The generator of an asynchronous context manager that is being entered or left; None for others.

    Such a coroutine waits in an object that doesn't name its generator."""
    if getattr(coroutine, "cr_code", None) not in _MANAGERS or coroutine.cr_frame is None:
        return None
    return coroutine.cr_frame.f_locals["self"].gen


_MANAGERS = {
    method.__code__
    for method in (_AsyncGeneratorContextManager.__aenter__, _AsyncGeneratorContextManager.__aexit__)
}


class SimFuture(asyncio.Future[Any]):
    """A future whose hash doesn't depend on its address, so that sets of futures have the same order in each
    run."""

    def __init__(self, *, loop: SimLoop) -> None:
        super().__init__(loop=loop)
        self._number = next(loop.numbers)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimTask(asyncio.Task[Any]):
    """A task that its process knows."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, loop: SimLoop, **options: Any) -> None:
        self._number = next(loop.numbers)
        self.process = PROCESS.get()
        is_dead = self.process is not None and self.process.is_dead
        if is_dead:
            coroutine.close()
        super().__init__(coroutine, loop=loop, **options)
        if is_dead:
            self._log_destroy_pending = False
        elif self.process is not None:
            self.process.tasks[self] = None
            self.add_done_callback(_forget)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


def _forget(task: asyncio.Future[Any]) -> None:
    if isinstance(task, SimTask) and task.process is not None:
        task.process.tasks.pop(task, None)


class Livelock(Exception):
    """The simulated processes made many steps while hardly any time passed."""


class SimLoop(asyncio.BaseEventLoop):
    """``now`` is the virtual time in seconds since the start of the run."""

    most_steps_per_s = 200_000

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.wall_offset_s = EPOCH_S - 1000.0
        self.steps = 0
        self.numbers = itertools.count(1)
        """For the hashes of futures and tasks."""
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.set_task_factory(self._make_task)
        self._checked_steps, self._checked_at = 0, self.now

    def time(self) -> float:
        return self.now

    def wall_time(self) -> float:
        return self.now + self.wall_offset_s

    def create_future(self) -> SimFuture:
        return SimFuture(loop=self)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None
    ) -> SimTask:
        if context is None:
            return SimTask(coroutine, loop=self)
        return context.run(SimTask, coroutine, loop=self, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Runs ``func`` in the loop's thread, a step later."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(STEP_S, run)
        return future

    def _process_events(self, event_list: Any) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and (scheduled[0]._cancelled or (not ready or scheduled[0]._when <= self.now)):
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if timer._cancelled:
                continue
            if timer._when > self.now:
                self.now = timer._when
            ready.append(timer)
        if not ready:
            raise RuntimeError("all simulated processes wait for ever")
        handle = ready.popleft()
        if handle._cancelled:
            return
        self.steps += 1
        self.now += STEP_S
        if self.steps % 65536 == 0:
            self._check_progress()
        process = handle._context.get(PROCESS)
        if process is None:
            handle._run()
            return
        if process.is_dead:
            return
        handle._run()
        process.steps += 1
        if process.kill_in is not None:
            process.kill_in -= 1
            if process.kill_in <= 0 and not process.is_dead:
                process.kill_in = None
                process.on_kill()
        if process.kill_at and not process.is_dead:
            task = getattr(handle._callback, "__self__", None)
            if isinstance(task, SimTask) and process.is_at(await_points(task)):
                process.on_kill()

    def _check_progress(self) -> None:
        if (self.steps - self._checked_steps) * STEP_S > 0.9 * (self.now - self._checked_at):
            raise Livelock(f"{self.steps - self._checked_steps} steps in {self.now - self._checked_at:.3f} s")
        self._checked_steps, self._checked_at = self.steps, self.now

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)


def bury(process: Process) -> None:
    """Closes the coroutines of a killed process. Their ``finally`` blocks run, but nothing that they do gets
    out of the process."""
    process.is_dead = True

    def close(task: SimTask) -> None:
        task._log_destroy_pending = False
        for coroutine in reversed([one for one in _chain(task) if hasattr(one, "close")]):
            for _ in range(MOST_FINALLY):
                try:
                    coroutine.close()
                    break
                except BaseException:
                    pass  # it runs now, or awaits in a finally block

    for task in list(process.tasks):
        process.context.copy().run(close, task)
    process.tasks.clear()
