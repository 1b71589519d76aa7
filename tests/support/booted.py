"""systemd in namespaces for tests: a real process 1 that runs the given units, isolated from this machine.

It shares this machine's ``/usr`` and network, but has its own ``/etc`` and ``/usr/local`` (overlays),
``/opt``, ``/srv``, ``/var/lib``, ``/run``, processes and control groups, and only the given units. Needs root
and permission to create namespaces, which many containers lack. There is no journal: services log to a file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.apps import WAIT_S

UNSHARE = (
    "unshare",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--pid",
    "--mount",
    "--cgroup",
    "--ipc",
    "--uts",
)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEMD = "/usr/lib/systemd/systemd"
TARGETS = ("sysinit", "basic", "shutdown", "network", "time-sync", "multi-user")
"""Targets that units depend on; they are empty here, so that nothing else is started."""

BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/here
mount --bind "$FOLDER" /run/here
for place in /etc /usr/local; do
    layer=/run/layers$place
    mkdir -p "$layer" "$layer.work"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$layer,workdir=$layer.work" "$place"
done
for place in /opt /srv /var/lib; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
. /run/here/binds
for file in /run/here/*.sysusers; do [ ! -e "$file" ] || systemd-sysusers "$file"; done
for file in /run/here/*.tmpfiles; do [ ! -e "$file" ] || systemd-tmpfiles --create "$file"; done
mount --make-rshared / # what systemd mounts for a service shows outside of that
export container=test SYSTEMD_LOG_TARGET=console
export SYSTEMD_UNIT_PATH=/run/here/units:/usr/local/lib/systemd/system
exec "$SYSTEMD" --system --unit=multi-user.target
"""


def skip_where_it_cannot_boot() -> None:
    if os.geteuid() != 0:
        pytest.skip("a systemd of its own needs root")
    if not Path(SYSTEMD).exists():
        raise AssertionError("systemd isn't installed; run scripts/setup test")
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine gives no namespaces: {done.stderr.strip()}")


class Booted:
    """A system with ``units`` (a folder, with sysusers and tmpfiles too). ``binds``: read-only mounts by
    their path in it. ``later``: units that are installed later."""

    def __init__(
        self, folder: Path, units: Path, binds: Mapping[str, Path], *, later: Sequence[str] = ()
    ) -> None:
        self._folder = folder
        shutil.copytree(units, folder / "units", symlinks=True)
        for name in TARGETS:
            (folder / "units" / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        for unit in {*(file.name for file in folder.glob("units/*.service")), *later}:
            drop_ins = folder / "units" / f"{unit}.d"
            drop_ins.mkdir(exist_ok=True)
            (drop_ins / "99-words.conf").write_text(
                "[Service]\nStandardOutput=append:/run/here/words\nStandardError=inherit\n"
            )
        for file in [*folder.glob("units/*.sysusers"), *folder.glob("units/*.tmpfiles")]:
            file.rename(folder / file.name)
        (folder / "binds").write_text(
            "".join(
                f"mkdir -p '{to}'; mount --rbind -o ro '{source}' '{to}'\n" for to, source in binds.items()
            )
        )

    def __enter__(self) -> Booted:
        skip_where_it_cannot_boot()
        with (self._folder / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", BOOT],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "FOLDER": str(self._folder),
                    "SYSTEMD": SYSTEMD,
                },
            )
        give_up_at = time.monotonic() + WAIT_S
        while not self._pid() or self.run("systemctl", "is-active", "multi-user.target").returncode:
            assert self._process.poll() is None and time.monotonic() < give_up_at, self.log
            time.sleep(0.05)
        return self

    def __exit__(self, *exception: object) -> None:
        """Kills process 1, which ends the whole system."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(WAIT_S)

    @property
    def namespace(self) -> str:
        """The kernel's name of its PID namespace."""
        return str(Path(f"/proc/{self._pid()}/ns/pid").readlink())

    def hurry(self) -> None:
        """Gives idle-priority processes normal priority: beside other tests they might never run."""
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # not a process, or ended
                for thread in (int(entry.name) for entry in (process / "task").iterdir()):
                    is_idle = os.sched_getscheduler(thread) == os.SCHED_IDLE
                    if is_idle and str((process / "ns/pid").readlink()) == self.namespace:
                        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                        os.setpriority(os.PRIO_PROCESS, thread, 0)

    @property
    def log(self) -> str:
        """systemd's output."""
        return (self._folder / "boot.log").read_text(errors="replace")

    @property
    def words(self) -> str:
        """The services' output."""
        file = self._folder / "words"
        return file.read_text(errors="replace") if file.exists() else ""

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file in the system as root, with its folders."""
        self.call("mkdir", "-p", str(Path(path).parent))
        handed = self._folder / "handed"
        handed.write_text(text)
        self.call("install", f"--mode={mode:o}", "/run/here/handed", path)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the system as root, outside of any sandbox."""
        enter = ("nsenter", "--target", self._pid(), "--all", "--")
        environment = {"PATH": PATH, "LANG": "C.UTF-8"}
        return subprocess.run([*enter, *command], capture_output=True, text=True, env=environment, cwd="/")

    def call(self, *command: str) -> str:
        """As :meth:`run`, but must succeed. :return: its output."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}\n{self.log}\n{self.words}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, from systemd."""
        return self.call("systemctl", "show", "--value", f"--property={name}", unit)

    def _pid(self) -> str:
        """The host's PID of process 1; empty if there is none."""
        pid = self._process.pid
        try:
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
        except OSError:
            return ""
