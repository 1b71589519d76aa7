"""Worker handle: starts a model's process, sends it calls and notices when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.engine.calls import (
    ANY,
    BALANCED,
    NO_ADAPTERS,
    Adapters,
    Call,
    Device,
    EngineInfo,
    OnHang,
    OnText,
    Output,
    Power,
)
from edgeslm.engine.frames import FROM_ENGINE, TO_ENGINE, Cancel, Chunk, Done, EngineMessage, Ready, Start
from edgeslm.errors import REQUEST_ERRORS, BundleError, InternalError, ModelUnavailable
from edgeslm.ipc.codec import FrameError
from edgeslm.ipc.job import PYTHON
from edgeslm.ipc.pipe import Refused
from edgeslm.ipc.process import Child
from edgeslm.messages import NORMAL_PRIORITY

log = logging.getLogger("edgeslm.engine")

STOP_GRACE_S = 5.0
"""Seconds that a worker has to exit on its own before it is killed."""
CANCEL_GRACE_S = 20.0
"""Seconds that a worker has to stop a cancelled call before it is killed. A worker can't interrupt a forward
pass, so it needs some time."""


class EngineCrashed(ModelUnavailable):
    """The worker exited during a call."""


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Output]
    on_chunk: OnText | None


class EngineProcess:
    """One worker process with one loaded model. Each instance must be used in a single event loop.

    :param threads: number of CPU threads; 0 means the number that was fastest when the bundle was prepacked
        or, if the bundle isn't prepacked, one thread per usable CPU.
    :param power: how CPU threads wait for work.
    :param device: device that computes the model.
    :param cache: folder of prepacked bundles.
    :param digest: required digest of the bundle, which the worker checks; None accepts any bundle.
    :param adapters: adapter bundles that calls may name, with their required digests.
    """

    command: Sequence[str] = (*PYTHON, "edgeslm.engine.worker.main")
    stop_grace_s = STOP_GRACE_S
    cancel_grace_s = CANCEL_GRACE_S

    def __init__(
        self,
        bundle: Path,
        *,
        threads: int = 0,
        power: Power = BALANCED,
        device: Device = "cpu",
        digest: str | None = None,
        adapters: Adapters = NO_ADAPTERS,
        cache: Path | None = None,
        log_level: str = "WARNING",
    ) -> None:
        self.bundle = bundle
        self.digest = digest
        self.info: EngineInfo | None = None
        self.losses = 0
        """Number of times that the worker exited unexpectedly."""
        self._threads = threads
        self._power: Power = power
        self._device: Device = device
        self._cache = cache
        self._adapters = adapters
        self._log_level = log_level
        self._child = Child(TO_ENGINE, FROM_ENGINE, self._handle, self._lost)
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._pending: dict[int, _Pending] = {}
        self._abandoned: dict[int, asyncio.TimerHandle] = {}
        self._on_hang: dict[int, OnHang] = {}
        self._unanswered: dict[int, int] = {}
        self._number = 0

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def pids(self) -> tuple[int, ...]:
        return () if self.pid is None else (self.pid,)

    @property
    def alive(self) -> bool:
        return self._child.is_linked

    @property
    def ready(self) -> bool:
        """Whether the worker is alive and its model is loaded."""
        start = self._ready
        is_loaded = start is not None and start.done() and not start.cancelled() and start.exception() is None
        return self.alive and is_loaded

    @property
    def complete(self) -> bool:
        """Whether the worker is alive; for a team, whether all workers are alive."""
        return self.alive

    @property
    def unanswered(self) -> int:
        """Number of calls that are queued or running in the worker, including cancelled calls."""
        return len(self._unanswered)

    @property
    def takes_prepared(self) -> bool:
        """Whether the next start looks for prepacked weights in the cache; false on a GPU, without a cache,
        and after the worker crashed while loading the model."""
        return self._cache is not None and self._device == "cpu"

    async def start(self) -> EngineInfo:
        """Starts the worker and waits until its model is loaded.

        :raises BundleError: the worker refuses the bundle.
        :raises EngineCrashed: the worker exited while loading.
        :raises ModelUnavailable: the process can't be started, or was stopped while loading.
        """
        try:
            await self._child.start(
                self.command,
                self._arguments(),
                # Both libraries read it at import. The worker sets it too; this covers its children.
                {**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            )
        except OSError as error:
            name = self.bundle.name
            raise ModelUnavailable(f"the engine of {name} can't be started: {error.strerror}") from None
        self._ready = asyncio.get_running_loop().create_future()
        try:
            self.info = await self._ready
        except BaseException as error:
            self._child.bury()
            self._fail(ModelUnavailable("the engine was not started"))
            if isinstance(error, EngineCrashed) and self._cache is not None:
                log.warning("the engine of %s is restarted without prepared weights", self.bundle.name)
                self._cache = None
            raise
        what = ", prepared" if self.info.prepared else ""
        log.info("%s is loaded on the %s: %d threads%s", self.bundle, self._device, self.info.threads, what)
        return self.info

    async def call(
        self,
        call: Call,
        on_chunk: OnText | None = None,
        priority: int = NORMAL_PRIORITY,
        on_hang: OnHang | None = None,
    ) -> Output:
        """Runs one call.

        Queued calls run in order of arrival. A call with a higher ``priority`` than the running call
        interrupts that call between two steps. Cancelling the task that awaits this method cancels the call
        between two steps. A worker that doesn't stop a cancelled call in time is killed; then ``on_hang`` is
        called.

        :raises RequestError: the error that the worker reports; :class:`EngineCrashed` if the worker exits
            during the call, :class:`InternalError` if the call can't be sent.
        """
        if not self.alive:
            raise EngineCrashed(f"the engine of {self.bundle.name} is not running")
        self._number += 1
        number = self._number
        future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        try:
            self._child.send(Start(number, call, priority))
        except FrameError as error:
            raise InternalError(f"the call can't be sent to the engine: {error}") from None
        self._unanswered[number] = priority
        self._pending[number] = _Pending(future, on_chunk)
        try:
            return await future
        except asyncio.CancelledError:
            if on_hang is not None:
                self._on_hang[number] = on_hang
            self._abandon(number)
            raise
        finally:
            self._pending.pop(number, None)

    async def stop(self) -> None:
        """Closes the pipe, which makes the worker exit; kills the worker if it is still alive after
        ``stop_grace_s``."""
        pid = self.pid
        self._fail(ModelUnavailable("the engine is being stopped"))
        if await self._child.stop(self.stop_grace_s):
            log.warning("worker %d did not end in %.0f s and is killed", pid, self.stop_grace_s)

    def kill(self) -> None:
        """Kills a worker that no longer answers; its calls fail with ``EngineCrashed``."""
        self._child.kill()

    def _arguments(self) -> list[str]:
        arguments = [str(self.bundle), str(self._threads), self._log_level]
        arguments += [self._power, self._device, str(self._cache or ANY), self.digest or ANY]
        adapters = [part for path, digest in self._adapters.items() for part in (str(path), digest or ANY)]
        return [*arguments, *adapters]

    def _abandon(self, number: int) -> None:
        """Cancels a call in the worker, and kills the worker if it hangs."""
        if self.alive:
            self._child.send(Cancel(number))
            self._watch(number)

    def _watch(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self._abandoned[number] = loop.call_later(self.cancel_grace_s, self._end_hung, number)

    def _end_hung(self, number: int) -> None:
        if number != min(self._unanswered, key=lambda other: (-self._unanswered[other], other)):
            self._watch(number)  # still queued, or interrupted by another call
            return
        log.error("the engine of %s did not give up call %d and is killed", self.bundle.name, number)
        del self._abandoned[number]
        if (on_hang := self._on_hang.pop(number, None)) is not None:
            on_hang()
        self.kill()

    def _handle(self, said: EngineMessage) -> None:
        if isinstance(said, Ready | Refused):
            if self._ready is not None and not self._ready.done():
                if isinstance(said, Ready):
                    self._ready.set_result(said.info)
                else:
                    self._ready.set_exception(BundleError(said.sentence))
            return
        pending = self._pending.get(said.number)
        if isinstance(said, Chunk):
            if pending is not None and not pending.future.done():
                self._pass_on(pending, said.text)
            return
        self._settle(said.number)
        if pending is not None and not pending.future.done():
            if isinstance(said, Done):
                pending.future.set_result(said.output)
            else:
                kind = REQUEST_ERRORS.get(said.code, InternalError)
                pending.future.set_exception(kind(said.sentence))

    def _settle(self, number: int) -> None:
        """Removes the state of a call whose result has arrived, even if the call was cancelled."""
        self._unanswered.pop(number, None)
        self._on_hang.pop(number, None)
        if (timer := self._abandoned.pop(number, None)) is not None:
            timer.cancel()

    def _pass_on(self, pending: _Pending, text: str) -> None:
        if pending.on_chunk is None:
            return
        try:
            pending.on_chunk(text)
        except Exception as error:  # a lost chunk must not end the call
            log.error("a chunk could not be passed on: %s", type(error).__name__)

    def _lost(self, reason: str) -> None:
        self.losses += 1
        log.error("the engine of %s ended unexpectedly (%s)", self.bundle.name, reason)
        self._fail(EngineCrashed(f"the engine of {self.bundle.name} ended unexpectedly ({reason})"))

    def _fail(self, error: Exception) -> None:
        """Ends all calls that wait for the worker, and a start in progress, with ``error``."""
        for timer in self._abandoned.values():
            timer.cancel()
        self._abandoned.clear()
        self._on_hang.clear()
        self._unanswered.clear()
        waiting: list[asyncio.Future[Any]] = [p.future for p in self._pending.values()]
        if self._ready is not None:
            waiting.append(self._ready)
        self._pending.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
