"""The parent's handle on a worker: start it, call it, notice its death. Imports no inference library."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgeslm.engine.calls import Call, EngineInfo, Output
from edgeslm.errors import REQUEST_ERRORS, BundleError, InternalError, ModelUnavailable

log = logging.getLogger("edgeslm.engine")

COMMAND: tuple[str, ...] = (sys.executable, "-m", "edgeslm.engine.worker")

STOP_GRACE_S = 5.0
"""How long a worker may take to end by itself."""
CANCEL_GRACE_S = 20.0
"""How long it may take to notice a cancelled call: a prefill can't be interrupted, a hang must be."""


class EngineCrashed(ModelUnavailable):
    """The worker ended in the middle of a call."""


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Output]
    on_chunk: Callable[[str], None] | None


class EngineProcess:
    """One worker process with one loaded model; lives on one event loop.

    :param threads: for the model; 0 takes every CPU that this process may use.
    :param command: what to run instead of this Python, for an emulator or a test.
    """

    def __init__(
        self, bundle: Path, *, threads: int = 0, log_level: str = "WARNING", command: Sequence[str] = COMMAND
    ) -> None:
        self.bundle = bundle
        self.info: EngineInfo | None = None
        self._threads = threads or len(os.sched_getaffinity(0))
        self._log_level = log_level
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._pending: dict[int, _Pending] = {}
        self._abandoned: dict[int, asyncio.TimerHandle] = {}
        self._number = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._pipe is not None

    async def start(self) -> EngineInfo:
        """Starts the worker and waits until its model is loaded.

        :raises BundleError: the worker refuses the bundle.
        :raises EngineCrashed: it ended while loading.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(self.bundle), str(self._threads), self._log_level],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Read at import by both libraries; the worker sets it too, this covers its children.
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            )
        finally:
            theirs.close()
        self._pipe = Connection(ours.detach())
        self._ready = loop.create_future()
        loop.add_reader(self._pipe.fileno(), self._receive)
        self.info = await self._ready
        return self.info

    async def call(self, call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
        """Runs one call; calls that wait are run in the order they came.

        Cancelling the awaiting task cancels the call in the worker between two tokens.

        :raises RequestError: as the worker says; :class:`EngineCrashed` when it ended meanwhile.
        """
        if self._pipe is None:
            raise EngineCrashed(f"the engine of {self.bundle.name} is not running")
        self._number += 1
        number = self._number
        pending = _Pending(asyncio.get_running_loop().create_future(), on_chunk)
        self._pending[number] = pending
        try:
            self._pipe.send(("call", number, call))
            return await pending.future
        except asyncio.CancelledError:
            self._abandon(number)
            raise
        except OSError:
            raise EngineCrashed(f"the engine of {self.bundle.name} ended") from None
        finally:
            self._pending.pop(number, None)

    async def stop(self) -> None:
        """Closes the pipe, which ends the worker; kills it if that takes more than a few seconds."""
        self._close_pipe(ModelUnavailable("the engine is being stopped"))
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("worker %d did not end in %.0f s and is killed", process.pid, STOP_GRACE_S)
            process.kill()
            await asyncio.to_thread(process.wait)

    def kill(self) -> None:
        """Ends a worker that no longer answers; its calls fail as crashed."""
        if self._process is not None:
            self._process.kill()

    def _abandon(self, number: int) -> None:
        """Asks the worker to give a call up, and ends it if it hangs instead."""
        if self._pipe is None:
            return
        try:
            self._pipe.send(("cancel", number))
        except OSError:
            return  # its end is noticed by the reader
        self._abandoned[number] = asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._end_hung, number)

    def _end_hung(self, number: int) -> None:
        log.error("the engine of %s did not give up call %d and is killed", self.bundle.name, number)
        self._abandoned.pop(number, None)
        self.kill()

    def _receive(self) -> None:
        if self._pipe is None:
            return
        try:
            while self._pipe is not None and self._pipe.poll():
                self._handle(self._pipe.recv())
        except (EOFError, OSError):
            # The pipe closes when the process is gone, so this does not wait.
            status = self._process.wait() if self._process else 0
            reason = f"signal {-status}" if status < 0 else f"exit status {status}"
            log.error("the engine of %s ended unexpectedly (%s)", self.bundle.name, reason)
            self._close_pipe(EngineCrashed(f"the engine of {self.bundle.name} ended unexpectedly ({reason})"))

    def _handle(self, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "ready" and self._ready is not None and not self._ready.done():
            self._ready.set_result(rest[0])
        elif kind == "refused" and self._ready is not None and not self._ready.done():
            self._close_pipe(BundleError(rest[0]))
        elif kind != "chunk" and (timer := self._abandoned.pop(rest[0], None)) is not None:
            timer.cancel()
        elif (pending := self._pending.get(rest[0])) is None or pending.future.done():
            return  # a chunk of a call that was given up
        elif kind == "chunk" and pending.on_chunk is not None:
            pending.on_chunk(rest[1])
        elif kind == "done":
            pending.future.set_result(rest[1])
        elif kind == "failed":
            pending.future.set_exception(REQUEST_ERRORS.get(rest[1], InternalError)(rest[2]))

    def _close_pipe(self, error: Exception) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            pipe.close()
        for timer in self._abandoned.values():
            timer.cancel()
        self._abandoned.clear()
        waiting = [p.future for p in self._pending.values()]
        self._pending.clear()
        for future in [*waiting, *([self._ready] if self._ready else [])]:
            if not future.done():
                future.set_exception(error)
