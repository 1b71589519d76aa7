"""One-shot jobs: a child process takes an order, reports progress and returns one answer, as JSON lines.

A crash, a hang or a lack of memory ends only the job. Untrusted input (archives, documents, manifests) is
read in a job with memory and time limits. Computation such as weight prepacking is a job too, so that the
parent loads no inference library. The parent's side blocks; in an event loop, use :meth:`Job.in_thread`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, Protocol, Self, TypeVar

PYTHON: Final = (sys.executable, "-P", "-m")
"""The option -P keeps the working directory off the module path, so that no file of a bundle is imported."""
ANSWER_BYTES: Final = 1_000_000
"""Default size limit of a line that a child sends."""
MOST_CONTAINERS: Final = 1_000_000
"""Maximum number of lists and objects in a line, each of which takes 20 times as much memory as its JSON
text.

Brackets in texts are counted too."""
_LOOK_EVERY_MS: Final = 200
_PIECE: Final = 1 << 20
_LAST_WORDS: Final = 300
_ENDING_S: Final = 2.0
"""Seconds to wait for the child to exit after its output has ended."""

Reason = Literal["memory", "time", "ended", "stopped"]
P = ParamSpec("P")
T = TypeVar("T")


class Progress(Protocol):
    """Receives a progress report, which is a JSON value."""

    def __call__(self, progress: Any, /) -> None: ...


class OrderHandler(Protocol):
    """Answers an order; order and answer are JSON values."""

    def __call__(self, order: Any, progress: Progress, /) -> Any: ...


class JobError(Exception):
    """A job returned no answer.

    :ivar reason: out of memory, timeout, unexpected exit, or stopped by the parent.
    :ivar status: exit status of the child, negative for a signal.
    :ivar words: last line that the child wrote to standard error.
    """

    def __init__(self, reason: Reason, sentence: str, status: int = 0, words: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason
        self.status = status
        self.words = words


class Job:
    """One child process that takes one order after another; the first :meth:`ask` starts the child.

    :param module: module that the child runs as ``python -m MODULE``; it must call :func:`serve`.
    :param command: command to which the module's name is appended; by default, this Python interpreter with
        ``-m``.
    :param files: descriptors of open files that the child inherits under the same numbers.
    :param answer_bytes: size limit of a line that the child sends.
    :param runs_as: ids of the child's user and of its only group; None: the user and groups of this process.
    """

    def __init__(
        self,
        module: str,
        *,
        command: Sequence[str] = PYTHON,
        files: Sequence[int] = (),
        answer_bytes: int = ANSWER_BYTES,
        runs_as: tuple[int, int] | None = None,
    ) -> None:
        self._command = [*command, module]
        self._files = tuple(files)
        self._answer_bytes = answer_bytes
        self._identity: dict[str, Any] = {}
        if runs_as is not None:
            self._identity = {"user": runs_as[0], "group": runs_as[1], "extra_groups": []}
        self._late = threading.Event()
        self._unread = bytearray()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child. Must not be called while an :meth:`ask` runs."""
        self.stop()
        self._reap()

    def ask(
        self,
        order: Any,
        *,
        timeout_s: float | None,
        memory_bytes: int | None,
        threads: int = 1,
        on_progress: Progress = lambda progress: None,
    ) -> Any:
        """Returns the child's answer; order and answer are JSON values. After a failure, the next call starts
        a new child.

        :param timeout_s: wall-clock limit; None: no limit.
        :param memory_bytes: address space that the child may add while it works on the order; None: no limit.
        :param threads: number of computing threads in the child, whose CPU time is limited to this number
            times ``timeout_s``.
        :raises JobError: the child returned no answer.
        :raises OSError: the child can't be started.
        """
        child = self._started()
        late = self._late = threading.Event()

        def end() -> None:
            late.set()
            _kill(child)

        timer = threading.Timer(timeout_s or 0, end)
        if timeout_s is not None:
            timer.start()
        try:
            cpu_s = None if timeout_s is None else timeout_s * threads
            envelope = {"order": order, "cpu_s": cpu_s, "memory_bytes": memory_bytes}
            return self._exchange(child, json.dumps(envelope).encode() + b"\n", on_progress)
        except (BrokenPipeError, EOFError, ValueError, RecursionError) as error:
            if isinstance(error, OSError | EOFError):
                _await_end(child)  # else its status would be that of the kill
            status, words = self._reap()
            if self._stopped:
                raise JobError("stopped", "the job was stopped", status, words) from None
            raise _failure(status, words, late.is_set(), memory_bytes is not None) from None
        except BaseException:
            self._reap()
            raise
        finally:
            timer.cancel()

    async def in_thread(self, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs the function ``ask``, which calls :meth:`ask`, in a thread. A cancellation ends the child and
        the thread."""
        import asyncio  # children don't need it

        asking = asyncio.ensure_future(asyncio.to_thread(ask, *args, **kwargs))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([asking])  # it reads the child's pipe, which is closed next
            if not asking.cancelled():
                asking.exception()
            raise

    def stop(self) -> None:
        """Ends the child; a running :meth:`ask` and each later call raise JobError. Thread-safe."""
        with self._lock:
            self._stopped = True
            child = self._child
        if child is not None:
            _kill(child)
            child.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise JobError("stopped", "the job was stopped")
            if self._child is None:
                words = tempfile.TemporaryFile()  # noqa: SIM115  as long as the child
                try:
                    self._child = subprocess.Popen(
                        self._command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=words,
                        pass_fds=self._files,
                        process_group=0,  # so that its own children are killed too
                        **self._identity,
                    )
                except BaseException:
                    words.close()
                    raise
                self._words = words
                self._unread.clear()
            return self._child

    def _exchange(self, child: subprocess.Popen[bytes], order: bytes, on_progress: Progress) -> Any:
        assert child.stdin is not None  # noqa: S101  a pipe
        child.stdin.write(order)
        child.stdin.flush()
        while True:
            line = self._read_line(child)
            if len(line) > MOST_CONTAINERS and line.count(b"[") + line.count(b"{") > MOST_CONTAINERS:
                raise ValueError
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError
            if "progress" in message:
                on_progress(message["progress"])
            elif message.get("out_of_memory"):
                self._reap()
                raise JobError("memory", "it takes more memory than it may")
            else:
                return message.get("answer")

    def _read_line(self, child: subprocess.Popen[bytes]) -> bytes:
        """:raises EOFError: the child has ended or is stopped, even if another process keeps the pipe open.
        :raises ValueError: the line is too long.
        """
        assert child.stdout is not None  # noqa: S101  a pipe
        out, unread = child.stdout.fileno(), self._unread
        ready = select.poll()
        ready.register(out, select.POLLIN)
        searched = 0
        while (end := unread.find(b"\n", searched)) < 0:
            searched = len(unread)
            if searched > self._answer_bytes:
                raise ValueError
            if self._late.is_set() or self._stopped:
                raise EOFError
            if ready.poll(_LOOK_EVERY_MS):
                if not (piece := os.read(out, _PIECE)):
                    raise EOFError
                unread += piece
            elif _has_ended(child):
                raise EOFError
        line = bytes(unread[:end])
        del unread[: end + 1]
        return line

    def _reap(self) -> tuple[int, str]:
        """Ends the child. :return: its exit status, and the last line of its standard error."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return 0, ""
        _kill(child)
        status = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with self._words as words:
            words.seek(0)
            last = words.read()[-_LAST_WORDS:].decode(errors="replace").strip().rpartition("\n")[2]
        return status, last


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kills the child and its own children. The child's pid is the id of the process group until the child is
    reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)


def _await_end(child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _ENDING_S
    while not _has_ended(child) and time.monotonic() < until:
        time.sleep(0.01)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended. Doesn't reap the child, since that would free the pid for reuse."""
    try:
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _failure(status: int, words: str, late: bool, is_memory_limited: bool) -> JobError:
    if late or status == -signal.SIGXCPU:
        return JobError("time", "it takes longer than it may", status, words)
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    # Libraries abort on a failed allocation.
    if is_memory_limited and (status == -signal.SIGABRT or "memory" in words.lower()):
        return JobError("memory", f"it takes more memory than it may ({how})", status, words)
    return JobError("ended", f"its process ended unexpectedly ({how}) {words}".rstrip(), status, words)


def run_job(
    module: str,
    order: Any,
    *,
    timeout_s: float | None,
    memory_bytes: int | None,
    threads: int = 1,
    command: Sequence[str] = PYTHON,
) -> Any:
    """Runs one order in a new child. See :meth:`Job.ask`."""
    with Job(module, command=command) as job:
        return job.ask(order, timeout_s=timeout_s, memory_bytes=memory_bytes, threads=threads)


# The child's side


def serve(answer: OrderHandler) -> None:
    """Answers orders until standard input is closed, which ends the process even during an order.

    :param answer: gets the order and a function that reports progress. An exception in ``answer`` ends the
        process, except ``MemoryError``, which is reported as the answer.
    """
    # systemd sends SIGTERM to all processes of a unit; this one is ended by its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the kernel's OOM killer takes this process first
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keeps library output out of the answers

    def say(key: str, value: Any) -> None:
        out.write(json.dumps({key: value}) + "\n")
        out.flush()

    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    while True:
        envelope = json.loads(orders.get())
        _limit(envelope["cpu_s"], envelope["memory_bytes"])
        try:
            done = answer(envelope["order"], lambda progress: say("progress", progress))
            say("answer", done)
        except MemoryError:
            _unlimit_memory()
            say("out_of_memory", True)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # a normal exit would abort while the other thread reads


def yield_processors(*, wholly: bool = True) -> None:
    """Lowers this process's CPU priority.

    :param wholly: whether the process runs only when the CPU is idle; else it gets a small share under load.
    """
    with contextlib.suppress(OSError):  # a systemd unit may forbid it
        os.nice(19 if wholly else 5)
    if wholly:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _read_orders(orders: queue.SimpleQueue[bytes]) -> None:
    with contextlib.suppress(OSError):
        for line in sys.stdin.buffer:
            orders.put(line)
    os._exit(0)


def _limit(cpu_s: float | None, memory_bytes: int | None) -> None:
    """Sets the limits of CPU time and memory for one order; None sets a limit to the process's hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    _set_limit(resource.RLIMIT_AS, hard if memory_bytes is None else _address_space() + memory_bytes)
    # Ends code that never returns to the interpreter, even after the parent has died.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    _set_limit(resource.RLIMIT_CPU, hard if cpu_s is None else int(time.process_time() + cpu_s) + 1)


def _set_limit(of: int, soft: int) -> None:
    _, hard = resource.getrlimit(of)
    is_within = hard == resource.RLIM_INFINITY or 0 <= soft <= hard
    resource.setrlimit(of, (soft if is_within else hard, hard))


def _unlimit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _address_space() -> int:
    """Address space in bytes, as RLIMIT_AS counts it."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()
