"""Sandboxed nodes for ``scripts/test --sandbox``: with all restrictions of the shipped unit.

Each node is a service in a separate systemd (:mod:`tests.support.booted`), with the shipped drop-in.
Differences: it runs as root without capabilities, since the tests' folders belong to root; it sees those
folders in ``/tmp``; and it isn't restarted.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.apps import WAIT_S
from tests.support.booted import Booted
from tests.support.nodes import packages
from tests.support.paths import ROOT

SHIPPED = ROOT / "firmware-config/systemd/edgeslm.service.d/10-edgeslm.conf"
PYTHON = f"/opt/edgeslm/base/bin/python{sysconfig.get_python_version()}"


class Sandbox:
    """The system in which the services run; ``shared`` is the folder with the tests' files."""

    def __init__(self, folder: Path, shared: Path) -> None:
        for place in (ROOT, shared):
            assert not place.is_relative_to("/root") and not place.is_relative_to("/home"), (
                f"the sandbox hides home folders, and {place} is in one: use a clone elsewhere"
            )
        (units := folder / "none").mkdir()
        self._folder = folder / "system"
        self._folder.mkdir()
        self._shared = shared
        self._tests = shared / "support"
        self._tests.mkdir(exist_ok=True)
        (self._tests / "tests").symlink_to(ROOT / "tests")
        self._system = Booted(self._folder, units, {"/opt/edgeslm/base": Path(sys.base_prefix)})
        self._names = (f"node-{number}.service" for number in itertools.count(1))

    def __enter__(self) -> Sandbox:
        self._system.__enter__()
        self._system.call("mkdir", "-p", "/etc/edgeslm/credentials")
        return self

    def __exit__(self, *exception: object) -> None:
        self._system.__exit__(*exception)

    def launch(self, command: Sequence[str], words: Path, environment: Mapping[str, str]) -> SandboxedProcess:
        """Starts ``command`` as a service with its output in ``words``; this run's interpreter is replaced by
        the sandbox's."""
        name = next(self._names)
        ended = self._shared / f"{name}.ended"
        unit = self._folder / "units" / name
        unit.write_text("[Unit]\nDescription=A node of a test\n")
        drop_ins = unit.with_name(f"{name}.d")
        drop_ins.mkdir()
        shutil.copy(SHIPPED, drop_ins)
        passed = {key: value for key, value in environment.items() if os.environ.get(key) != value}
        # The sandbox's Python can't find the tests by itself.
        passed["PYTHONPATH"] = os.pathsep.join(
            [*filter(None, [environment.get("PYTHONPATH")]), *map(str, packages()), str(self._tests)]
        )
        passed["LD_LIBRARY_PATH"] = "/opt/edgeslm/base/lib"
        program, *arguments = (PYTHON if part == sys.executable else part for part in command)
        lines = [
            "[Service]",
            "User=root",
            "Group=root",
            "Restart=no",
            f"BindPaths={self._shared}",
            f"StandardOutput=append:{words}",
            "StandardError=inherit",
            *(f"Environment={_quoted(f'{key}={value}')}" for key, value in passed.items()),
            "ExecStart=",
            f"ExecStart={' '.join(_quoted(part) for part in (program, *arguments))}",
            # systemd forgets the exit status of a service that succeeded.
            f"ExecStopPost=/bin/sh -c 'echo $$EXIT_CODE $$EXIT_STATUS >{ended}'",
        ]
        (drop_ins / "20-test.conf").write_text("\n".join(lines) + "\n")
        self._system.call("systemctl", "daemon-reload")
        return SandboxedProcess(self._system, name, ended)


def _quoted(text: str) -> str:
    """Quotes an argument by systemd.service(5) and systemd.syntax(7)."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("%", "%%"), ("$", "$$")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


class SandboxedProcess:
    """The interface of :class:`subprocess.Popen` that tests use, for a service's main process."""

    def __init__(self, system: Booted, unit: str, ended: Path) -> None:
        self._system = system
        self._unit = unit
        self._ended = ended
        system.call("systemctl", "start", "--no-block", unit)
        give_up_at = time.monotonic() + WAIT_S
        while (inner := system.show(unit, "MainPID")) == "0" and self.poll() is None:
            assert time.monotonic() < give_up_at, system.log
            time.sleep(0.02)
        self.pid = _host_pid(int(inner), system.namespace) if inner != "0" else 0

    def poll(self) -> int | None:
        """The exit status (negative: signal) once all processes of the service have ended."""
        if self._ended.exists() and (words := self._ended.read_text().split()):
            how, status = words
            return int(status) if how == "exited" else -signal.Signals[f"SIG{status}"]
        if self._system.show(self._unit, "ActiveState") == "failed":  # it couldn't be started
            return int(self._system.show(self._unit, "ExecMainStatus"))
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = WAIT_S) -> int:
        give_up_at = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > give_up_at:
                raise subprocess.TimeoutExpired(self._unit, timeout)
            time.sleep(0.02)
        return status


def _host_pid(inner: int, namespace: str) -> int:
    """The host's PID of a process with the PID ``inner`` in a PID namespace."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            numbers = next(
                line.split()[1:]
                for line in (entry / "status").read_text().splitlines()
                if line.startswith("NSpid:")
            )
            if int(numbers[-1]) == inner and str((entry / "ns/pid").readlink()) == namespace:
                return int(entry.name)
        except OSError:
            continue
    return 0
