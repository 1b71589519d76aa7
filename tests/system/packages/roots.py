"""Clean Debian systems in folders for tests: booted with their own systemd, or emulated."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.apps import WAIT_S
from tests.support.booted import skip_where_it_cannot_boot
from tests.support.paths import ROOT

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/tmp",
    "QEMU_CPU": "cortex-a76",
}

BOOT = """
set -eu
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
mount --bind -o ro "$ROOT/proc/sys" "$ROOT/proc/sys" # the kernel's settings are this machine's
mount --rbind /sys "$ROOT/sys"
umount -R "$ROOT/sys/fs/cgroup" 2>/dev/null || true
mount -t cgroup2 none "$ROOT/sys/fs/cgroup"
for place in run tmp; do mount -t tmpfs -o mode=1777 tmpfs "$ROOT/$place"; done
chmod 755 "$ROOT/run"
cd "$ROOT"
mkdir run/before
pivot_root . run/before
umount -l /run/before
mount --make-rshared / # what systemd mounts for a service shows outside of that
export container=test SYSTEMD_LOG_TARGET=console
exec /usr/lib/systemd/systemd --system --unit=multi-user.target
"""

PASSING = (
    *("dev", "proc", "run", "sys", "tmp", "srv", "var/cache", "var/log", "var/lib/dpkg", "var/lib/apt"),
    *("etc/ld.so.cache", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/.pwd.lock"),
    *("var/lib/systemd/random-seed", "var/lib/systemd/timers", "var/tmp"),
)
"""Paths that change with any package or with time; they are ignored."""
ACCOUNTS = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")


class Root:
    """A system of ``architecture`` in ``folder``, with this machine's network."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.folder = folder
        self.architecture = architecture

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that executes ``command`` in it."""
        return [str(ROOT / "tests/system/packages/emulate"), self.architecture, str(self.folder), *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.enter(command), env=ENVIRONMENT, capture_output=True, text=True)

    def call(self, *command: str) -> str:
        """As :meth:`run`, but must succeed. :return: its output."""
        done = self.run(*command)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def install(self, *packages: Path) -> str:
        """Installs packages; fails if a dependency is missing."""
        for package in packages:
            (self.folder / "srv" / package.name).write_bytes(package.read_bytes())
        return self.call("dpkg", "--install", *(f"/srv/{package.name}" for package in packages))

    def state(self) -> dict[str, str]:
        """All paths with mode and owner, and the accounts."""
        found = {}
        for parent, folders, files in os.walk(self.folder):
            here = Path(parent).relative_to(self.folder)
            folders[:] = [name for name in folders if str(here / name) not in PASSING]
            for name in (*folders, *files):
                if (path := str(here / name)) not in PASSING:
                    status = (self.folder / path).lstat()
                    found[path] = f"{status.st_mode:o} {status.st_uid} {status.st_gid}"
        for path in ACCOUNTS:
            found[path] = (self.folder / path).read_text()
        return found

    def texts(self, *folders: str) -> dict[str, bytes]:
        """Content of all files below these folders."""
        files = [file for folder in folders for file in (self.folder / folder).rglob("*") if file.is_file()]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}


class BootedRoot(Root):
    """With systemd as process 1, in namespaces of its own; needs root."""

    def __enter__(self) -> BootedRoot:
        skip_where_it_cannot_boot()
        self._log = self.folder.with_suffix(".log")
        namespaces = ("--pid", "--mount", "--cgroup", "--ipc", "--uts")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--fork", "--kill-child", *namespaces, "sh", "-c", BOOT],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**ENVIRONMENT, "ROOT": str(self.folder)},
            )
        give_up_at = time.monotonic() + WAIT_S
        while not self._is_up():
            assert self._process.poll() is None and time.monotonic() < give_up_at, self._log.read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *exception: object) -> None:
        """Kills process 1, which ends the whole system."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(WAIT_S)

    def enter(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", self._first(), "--all", "--wdns=/", "--", *command]

    def _first(self) -> str:
        pid = self._process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()

    def _is_up(self) -> bool:
        return bool(self._first()) and self.run("systemctl", "is-active", "multi-user.target").returncode == 0


class Program:
    """A program that runs in a root until it is terminated."""

    def __init__(self, root: Root, command: Sequence[str]) -> None:
        self._log = root.folder.with_suffix(".words")
        with self._log.open("wb") as words:
            self._process = subprocess.Popen(
                root.enter(command), stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=ENVIRONMENT
            )

    @property
    def words(self) -> str:
        return self._log.read_text()

    def terminate(self) -> int:
        """Sends SIGTERM. :return: the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(WAIT_S)
