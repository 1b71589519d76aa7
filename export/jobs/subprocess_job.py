"""Subprocess jobs: starts a child process for a heavy step, relays its progress and reads its result.

The command's own process doesn't import torch or the builder, so it refuses bad sources in a fraction of a
second, hides what libraries print, and survives a step that runs out of memory.

A child gets its task as JSON on standard input. A child writes JSON lines on standard output, which are
``{"progress": [done, total, what]}``, and at the end ``{"result": {...}}`` or ``{"error": sentence}``. What
libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol

from edgeslm.errors import EdgeslmError, ExportError


class ChildKilled(ExportError):
    """A child was killed, for example for lack of memory. The same command may go on later."""


class OnProgress(Protocol):
    """Progress callback: units done, units in total, and what is being done."""

    def __call__(self, done: int, total: int, what: str, /) -> None: ...


class Announce(Protocol):
    """Callback that shows the user a sentence."""

    def __call__(self, sentence: str, /) -> None: ...


class ChildStep(Protocol):
    """Function that a child runs: computes a result from a task; both are JSON objects."""

    def __call__(self, task: dict[str, Any], reporter: Reporter, /) -> dict[str, Any]: ...


TELEMETRY_OFF = {
    # Both inference libraries write device ids and usage files unless this is set before their import.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}

GPU_FULL = "The GPU has too little memory for this; the same command with --device cpu needs none of it."

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Environment variables for children that read local files only; without them, transformers asks the hub
about some local tokenizers."""


def run_child(
    command: Sequence[str],
    task: Mapping[str, Any],
    what: str,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Runs ``command`` with ``task`` as JSON on its standard input.

    :param what: the step, as the subject of a sentence ("the conversion").
    :param debug: whether the libraries may print to standard error.
    :return: the child's result.
    :raises ExportError: the child reported an error, whose sentence becomes the message, or ended without a
        result.
    """
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if debug else log,
            env={**os.environ, **TELEMETRY_OFF, **_QUIET, **(environment or {})},
            text=True,
        )
        try:
            result = _exchange(child, task, on_progress)
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            _close_pipes(child)
        if result is not None and status == 0:
            return result
        kind = ChildKilled if status < 0 else ExportError
        raise kind(_failure(what, status, log, debug))


def run_module(
    module: str,
    task: Mapping[str, Any],
    what: str,
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """Runs a module of this package as ``run_child`` does; the module reads local files only.

    Python's option -P keeps the working directory, which may be a downloaded folder, off the module path.
    """
    command = [sys.executable, "-P", "-m", f"edgeslm_export.{module}"]
    return run_child(command, task, what, on_progress=on_progress, debug=debug, environment=OFFLINE)


def _close_pipes(child: subprocess.Popen[str]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _exchange(
    child: subprocess.Popen[str], task: Mapping[str, Any], on_progress: OnProgress | None
) -> dict[str, Any] | None:
    if child.stdin is None or child.stdout is None:
        return None
    try:
        json.dump(task, child.stdin)
        child.stdin.close()
    except BrokenPipeError:
        return None
    result: dict[str, Any] | None = None
    for line in child.stdout:
        message = json.loads(line)
        if "error" in message:
            raise ExportError(message["error"])
        if "progress" in message and on_progress is not None:
            on_progress(*message["progress"])
        result = message.get("result", result)
    return result


def _failure(what: str, status: int, log: IO[bytes], debug: bool) -> str:
    if status == -signal.SIGKILL:
        return (
            f"The system ended {what}, most likely for lack of memory; "
            "use a larger machine or a smaller model."
        )
    if status < 0:
        return f"{signal.Signals(-status).name} ended {what}; --debug shows what the libraries print."
    if debug:
        return f"It failed at {what}, with exit status {status}; the output above says why."
    log.seek(0)
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else f"exit status {status}"
    return f"It failed at {what}: {reason} (--debug shows everything)."


class Reporter:
    """The child's side of a job: writes messages to standard output, and sends what libraries print to
    standard error."""

    def __init__(self) -> None:
        _end_with_parent()
        gc.set_threshold(50_000)  # collections make importing torch and transformers 15 % slower
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def progress(self, done: int, total: int, what: str) -> None:
        self._send({"progress": [done, total, what]})

    def _send(self, message: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def run(self, work: ChildStep) -> int:
        """Reads the task, runs ``work`` and sends its result or error.

        :return: the exit status.
        """
        task = json.load(sys.stdin)
        try:
            self._send({"result": work(task, self)})
        except EdgeslmError as error:
            traceback.print_exc()
            self._send({"error": str(error)})
            return 1
        except Exception as error:
            if not _is_gpu_full(error):
                raise
            traceback.print_exc()
            self._send({"error": GPU_FULL})
            return 1
        return 0


def _is_gpu_full(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _end_with_parent() -> None:
    """Makes Linux kill this process when its parent dies, even by SIGKILL, so that no orphan runs on for
    hours."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
