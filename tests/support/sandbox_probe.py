"""Sandbox probe, run in the unit's sandbox: tries forbidden operations and prints the results as JSON."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

FAR = "203.0.113.1"
"""A public address that is never assigned (RFC 5737)."""
NEAR = "127.0.0.1"


def list_folder(path: str) -> list[str]:
    return [entry.name for entry in Path(path).iterdir()]


def send_to(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.sendto(b"", (address, 9))


def make_writable_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_setuid() -> None:
    file = Path("/var/lib/edgeslm/probe")
    file.touch()
    file.chmod(0o755 | stat.S_ISUID)


def run_in_real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def call(name: str, *arguments: int | bytes | None) -> None:
    """Calls a function of the C library that returns -1 on failure."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "keep state": lambda: Path("/var/lib/edgeslm/probe").write_text("kept"),
    "read the memory there is": lambda: Path("/proc/meminfo").read_text(),
    "bind a thread to a core": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "work when nobody else does": lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)),
    "send to this machine": lambda: send_to(NEAR),
    "change the system": lambda: Path("/usr/probe").touch(),
    "change the configuration": lambda: Path("/etc/edgeslm/probe").touch(),
    "read root's secrets": lambda: list_folder("/etc/edgeslm/credentials"),
    "look into homes": lambda: list_folder("/root"),
    "see other users' processes": lambda: list_folder("/proc/1"),
    "change the kernel": lambda: Path("/proc/sys/kernel/hostname").write_text("probe"),
    "send to the world": lambda: send_to(FAR),
    "speak another protocol": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "read packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "write code into memory": make_writable_code,
    "make a setuid file": make_setuid,
    "run in real time": run_in_real_time,
    "make namespaces": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "trace processes": lambda: call("ptrace", 16, os.getppid(), None, None),
    "be another machine": lambda: call("sethostname", b"probe", 5),
    "become root": lambda: os.setuid(0),
    "use a device": lambda: os.mknod("/var/lib/edgeslm/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0)),
}


def try_all() -> dict[str, str]:
    """Attempts with the names of their errors, empty on success."""
    outcomes = {}
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except OSError as error:
            outcomes[name] = errno.errorcode.get(error.errno or 0, str(error))
        else:
            outcomes[name] = ""
    return outcomes


if __name__ == "__main__":
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    facts = {name: status[name] for name in ("NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "Uid")}
    facts["devices"] = " ".join(sorted(list_folder("/dev")))
    json.dump({"attempts": try_all(), "facts": facts}, sys.stdout)
