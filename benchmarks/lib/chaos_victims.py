"""Processes that ``chaos.py`` kills and stops: mosquitto with a shipped configuration, ``edgeslm run``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from benchmarks.lib.chaos_senders import NODE, TASK, TOPICS
from benchmarks.lib.fake_engine import write_bundle
from benchmarks.lib.paths import LIB, ROOT

CONFIGURATIONS = ROOT / "firmware-config/mosquitto"
START_S = 60.0
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

OF_THE_PLACE = ("listener", "password_file", "allow_anonymous", "persistence_location", "acl_file")
"""Settings of a profile that belong to where it runs, which this file replaces."""


def profile_lines(profile: str) -> str:
    """The settings of ``firmware-config/mosquitto/<profile>.conf`` that decide what is kept."""
    text = (CONFIGURATIONS / f"{profile}.conf").read_text()
    settings = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(line for line in settings if line.split()[0] not in OF_THE_PLACE) + "\n"


class Broker:
    """mosquitto in ``folder``, where its database stays between starts."""

    def __init__(self, folder: Path, profile: str, environment: Mapping[str, str] = NOTHING) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("mosquitto is missing: apt-get install mosquitto")
        folder.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._log = folder / "mosquitto.log"
        file = folder / "mosquitto.conf"
        file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence_location {folder}/\n"
            # Started as root it would become a user who can't write there.
            + ("user root\n" if os.geteuid() == 0 else "")
            + profile_lines(profile)
        )
        self._command = [program, "-c", str(file)]
        self._environment = {**os.environ, **environment}

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        give_up_at = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"mosquitto didn't start: {self._log.read_text(errors='replace')[-500:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(START_S)


class NodeUnderTest:
    """``edgeslm run`` on the broker at ``port``, with fake engines or with the models of ``starter``.

    ``changes`` are sections of its configuration that take the place of the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        starter: Path | None,
        service_ms: float,
        crash_every: float,
        environment: Mapping[str, str] = NOTHING,
        changes: Mapping[str, Any] = NOTHING,
    ) -> None:
        folder.mkdir(exist_ok=True)
        bundle = starter / "smollm2-135m-int4" if starter else write_bundle(folder / "bundle")
        self.state = folder / "state"
        self._file = folder / "config.yaml"
        self._file.write_text(yaml.safe_dump({**configuration(bundle, port, self.state), **changes}))
        self.words = folder / "words.txt"
        program = [str(LIB / "fake_engine.py"), "run"]
        self._command = [sys.executable, *(["-m", "edgeslm", "run"] if starter else program), str(self._file)]
        self._environment = {
            **os.environ,
            **environment,
            "FAKE_SERVICE_MS": str(service_ms),
            "FAKE_CRASH_EVERY": str(crash_every),
        }

        self.ended: list[str] = []
        """Its last words each time that it ended by itself; then it is started again, as systemd does."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()

    def start(self) -> None:
        with self._lock:
            self._launch()
            self._wanted.set()

    def use(self, python: str, engine: Path, environment: Mapping[str, str]) -> None:
        """The next start runs the code that this ``fake_engine.py`` finds with ``environment``."""
        with self._lock:
            self._command = [python, str(engine), "run", str(self._file)]
            self._environment = {**self._environment, **environment}

    def kill(self) -> None:
        with self._lock:
            self._wanted.clear()
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        self.kill()
        self._closed.set()
        self._supervisor.join()

    def _launch(self) -> None:
        with self.words.open("ab") as words:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=self._environment
            )

    def _supervise(self) -> None:
        while not self._closed.wait(0.1):
            with self._lock:
                if self._wanted.is_set() and self._process is not None and self._process.poll() is not None:
                    self.ended.append(self.words.read_text().rstrip().rpartition("\n")[2])
                    self._launch()

    def kill_worker(self) -> bool:
        """Whether there was one."""
        workers = list(children(self._process.pid)) if self._process is not None else []
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(workers)

    def freeze_daemon(self, seconds: float) -> None:
        """Stops it with SIGSTOP for so long; its engines go on."""
        with self._lock:
            if self._process is not None:
                _freeze([self._process.pid], seconds)

    def freeze_worker(self, seconds: float) -> bool:
        """Whether there was one."""
        workers = list(children(self._process.pid)) if self._process is not None else []
        _freeze(workers, seconds)
        return bool(workers)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        with self._lock:
            self._wanted.clear()
            if self._process is None:
                return 0
            self._process.send_signal(signal.SIGTERM)
            return self._process.wait(START_S)


def _freeze(pids: Sequence[int], seconds: float) -> None:
    for number, pause_s in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if pids:
            time.sleep(pause_s)


def configuration(bundle: Path, port: int, state: Path) -> dict[str, Any]:
    return {
        "node": NODE,
        "broker": {"url": f"mqtt://127.0.0.1:{port}", "keepalive_s": 2},
        "models": {"small": {"bundle": str(bundle.resolve())}},
        "tasks": {
            TASK: {
                "kind": "classify",
                "model": "small",
                "instruction": "How urgent is this message from a machine operator?",
                "labels": {"normal": "all is well", "warning": "look at it", "critical": "stop now"},
            }
        },
        "limits": {"sender_queue": 256},  # two senders have all of it, and none of it is refused
        "prepare": "never",
        "state_dir": str(state),
        "log_level": "info",
    }


CLIENT_ID = f"{TOPICS.base.split('/')[0]}-{NODE}"
"""The node's own, for who looks into its session."""


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
            if parent == pid:
                yield int(entry.name)
