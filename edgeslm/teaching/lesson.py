"""Choice of messages and training of heads: runs ``edgeslm-export``, in processes of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeslm.config.extras import install_line
from edgeslm.errors import EdgeslmError

COMMAND = ("-P", "-m", "edgeslm_export")
IN_MEMORY = Path("/dev/shm")
IN_BACKGROUND = ("-P", "-m", "edgeslm.teaching.background")
"""Arguments of this Python interpreter."""


class ExportRunner:
    """Runs commands of ``edgeslm-export``, one at a time.

    :param memory_bytes: if given, commands run in the background (``edgeslm.teaching.background``): on idle
        processors, within this memory, and not longer than this process.
    :param cache: folder for the commands' cache. :param limit_s: longest time of a command.
    """

    def __init__(
        self,
        *,
        memory_bytes: int | None = None,
        cache: Path | None = None,
        limit_s: float | None = None,
    ) -> None:
        self._command = [sys.executable, *COMMAND]
        if memory_bytes is not None:
            self._command = [sys.executable, *IN_BACKGROUND, str(memory_bytes), *self._command]
        self._environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache is not None else {})}
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._is_stopped = False

    @property
    def pid(self) -> int | None:
        """Process id of the running command."""
        child = self._child
        return None if child is None else child.pid

    def run(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The report that a command prints. :raises EdgeslmError: it failed, or was stopped."""
        with self._lock:
            if self._is_stopped:
                raise EdgeslmError("teaching was stopped")
            child = self._child = subprocess.Popen(
                [*self._command, *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=self._environment,
                process_group=0,  # so that its own children are killed too
            )
        try:
            out, words = child.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            child.communicate()
            raise EdgeslmError(f"{arguments[0]} took longer than {self._limit_s:g} seconds") from None
        except BaseException:
            _kill(child)
            child.wait()
            raise
        finally:
            self._child = None
        if child.returncode:
            said = words.strip().rpartition("\n")[2].removeprefix("edgeslm-export: ")
            if child.returncode < 0:
                said = f"its process was ended by signal {-child.returncode}"
            raise EdgeslmError(f"{arguments[0]} failed: {said}")
        found: dict[str, Any] = json.loads(out.strip().rpartition("\n")[2])
        return found

    def stop(self) -> None:
        """Ends a running command; it and later ones fail. Thread-safe."""
        with self._lock:
            self._is_stopped = True
            if self._child is not None:
                _kill(self._child)


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)


def work_folder(name: str, on_disk: Path | None) -> Path:
    """A new folder in memory for the files of jobs. Those of killed processes of this ``name`` are removed.

    :param on_disk: where the folder is if there is no memory for it; None: nowhere.
    :raises EdgeslmError: there is no place for it.
    """
    remove_leftovers(name, on_disk)
    why: str | None = None
    for base in (IN_MEMORY, on_disk):
        if base is None:
            continue
        try:
            if base == on_disk:
                base.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{_prefix(name)}{os.getpid()}-", dir=base))
        except OSError as error:
            why = error.strerror
    raise EdgeslmError(f"there is no place for the files of teaching ({why})")


def remove_leftovers(name: str, on_disk: Path | None) -> None:
    """Removes the work folders of killed processes of this ``name``: they have texts."""
    prefix = _prefix(name)
    for base in (IN_MEMORY, on_disk):
        for other in base.glob(f"{prefix}*") if base is not None else ():
            pid = other.name.removeprefix(prefix).partition("-")[0]
            with contextlib.suppress(OSError):
                if other.stat().st_uid == os.geteuid() and not Path("/proc", pid).exists():
                    shutil.rmtree(other, ignore_errors=True)


def _prefix(name: str) -> str:
    return f"edgeslm-teach-{name}-"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is taught: the task with its labels, the encoder, and a folder for the files in between."""

    task: str
    labels: Mapping[str, str]
    encoder: Path
    work: Path
    runner: ExportRunner = field(default_factory=ExportRunner)

    def check(self) -> None:
        """:raises EdgeslmError: training isn't installed here."""
        if importlib.util.find_spec("sklearn") is None:
            line = install_line("heads")
            raise EdgeslmError(f"teaching needs the extra heads, which isn't installed: {line}")

    def choose(self, texts: Sequence[str], rows: Sequence[Mapping[str, str]], count: int) -> dict[str, Any]:
        """The next texts to label, with guesses, and the accuracy so far (``edgeslm-export choose``).

        :raises EdgeslmError: the choice failed.
        """
        pool = self._write("pool.jsonl", [{"text": text} for text in texts])
        command = ["choose", pool, "--count", str(count), "--encoder", str(self.encoder)]
        if rows:
            command += ["--labelled", self._write("rows.jsonl", rows)]
        return self.runner.run(command)

    def train(self, rows: Sequence[Mapping[str, str]], out: Path) -> dict[str, Any]:
        """Trains a head, which replaces that in ``out``, and returns its report.

        :raises EdgeslmError: training failed.
        """
        description = self.work / "task.yaml"
        task = {"name": self.task, "kind": "classify", "labels": dict(self.labels)}
        description.write_text(json.dumps(task), "utf-8")  # JSON is YAML
        out.parent.mkdir(parents=True, exist_ok=True)
        data = self._write("rows.jsonl", rows)
        command = ["tune", str(description), data, str(out), "--method", "head", "--replace"]
        return self.runner.run([*command, "--encoder", str(self.encoder)])

    def _write(self, name: str, rows: Sequence[Mapping[str, str]]) -> str:
        file = self.work / name
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return str(file)
