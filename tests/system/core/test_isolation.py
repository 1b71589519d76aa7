"""Nothing leaves the box: broker, daemon and requests in a network without a way out.

Both inference libraries report to their maker unless they are told not to before they are imported: device
identifiers and event files in the home folder, and two threads that send them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.apps import WAIT_S
from tests.support.brokers import free_port
from tests.support.nodes import parent_of, real_configuration, write_configuration

pytestmark = pytest.mark.e2e

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
"""All that the processes get of this one's environment: no CI, which alone would keep the libraries quiet."""

THREADS = 2
"""The main thread and, in the parent, the network's, in an engine of one compute thread the pipe's.

Before Python 3.14 all have the name of the program, so their number tells more. numpy and the tokenizer would
add one a core, which the environment keeps from them here.
"""
NAMES = {Path(sys.executable).name[:15], "python", "python3", "edgeslm-bus", "pipe"}
GRAMMAR_THREADS = 1
"""What the compiler of grammars adds, at least one; only an engine that was asked for JSON has it."""


@dataclass
class Box:
    """Where everything runs: fresh folders for what may be written and, as root, a network of its own."""

    folder: Path
    enter: Sequence[str] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **{name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "RAYON_NUM_THREADS": str(GRAMMAR_THREADS),
            **{
                f"XDG_{name}_HOME": str(self.folder / "xdg" / name.lower())
                for name in ("CACHE", "CONFIG", "DATA", "STATE")
            },
        }

    @property
    def written(self) -> list[str]:
        """Every file that was made where programs keep theirs."""
        found = [file for name in ("home", "tmp", "xdg") for file in (self.folder / name).rglob("*")]
        return sorted(str(file.relative_to(self.folder)) for file in found if not file.is_dir())

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as words:
            process = subprocess.Popen(
                [*self.enter, *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        self.processes.append(process)
        return process

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*self.enter, *command], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def make_network(box: Box) -> None:
    """A network namespace with nothing but the loopback interface, held open by a process that sleeps."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program, path=PROGRAMS) is None:
            pytest.fail(f"{program} is missing: install util-linux and iproute2, or run scripts/setup test")
    up = "ip link set lo up && echo up && exec sleep 3600"
    holder = box.start("unshare", "--net", "sh", "-c", up, log="network")
    while "up\n" not in (box.folder / "network").read_text() and holder.poll() is None:
        time.sleep(0.01)
    if holder.poll() is not None:
        words = (box.folder / "network").read_text().strip()
        pytest.fail(f"this needs a network namespace, which root can't make here: {words}")
    box.enter = ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    for name in ("home", "tmp", "xdg"):
        (tmp_path / name).mkdir()
    if os.geteuid() == 0:
        make_network(box)
    yield box
    for process in reversed(box.processes):
        process.kill()
        process.wait()


def threads(pid: int) -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]


def connections(pid: int) -> set[tuple[str, str, str]]:
    """(protocol, local, remote) of every internet socket of a process, as the kernel writes addresses.

    Without the pair over which the MQTT client wakes itself: both ends are in the process.
    """
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            held.add(target[len("socket:[") : -1])
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in lines_of(f"/proc/{pid}/net/{protocol}")[1:]:
            columns = line.split()
            if columns[9] in held:
                found.add((protocol, columns[1], columns[2]))
    return {
        (protocol, here, there) for protocol, here, there in found if (protocol, there, here) not in found
    }


def lines_of(file: str) -> list[str]:
    """Of a kernel's file; none where the kernel has no IPv6."""
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def attempts_to_leave(pid: int) -> dict[str, int]:
    """The kernel's counts of packets that had nowhere to go, in the network of a process."""
    lines = [line.split() for line in lines_of(f"/proc/{pid}/net/snmp")]
    counts: dict[str, int] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        counts |= {f"{names[0]}{name}": int(value) for name, value in zip(names[1:], values[1:], strict=True)}
    for line in lines_of(f"/proc/{pid}/net/snmp6"):
        name, value = line.split()
        counts[name] = int(value)
    wanted = ("Ip:OutNoRoutes", "Udp:NoPorts", "Udp:OutDatagrams", "Ip6OutNoRoutes", "Udp6OutDatagrams")
    return {name: counts[name] for name in wanted if name in counts}


def test_the_kernel_counts_what_finds_no_way_out(box: Box) -> None:
    """What the next test rests on."""
    if not box.enter:
        return  # not root: there is no network of our own to count in
    lookup = "import socket\ntry: socket.create_connection(('192.0.2.1', 443), 1)\nexcept OSError: pass"
    box.run(sys.executable, "-c", lookup)
    assert attempts_to_leave(box.processes[0].pid)["Ip:OutNoRoutes"] > 0


def test_nothing_leaves_the_box(box: Box, starter: Path) -> None:
    port = free_port()
    (box.folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\n" + ("user root\n" if os.geteuid() == 0 else "")
    )
    box.start(
        shutil.which("mosquitto", path=PROGRAMS) or "mosquitto",
        "-c",
        str(box.folder / "mosquitto.conf"),
        log="broker.log",
    )
    configuration = real_configuration(f"mqtt://127.0.0.1:{port}", starter, box.folder)
    del configuration["state_dir"]
    for model in configuration["models"].values():
        model["threads"] = 1
    file = write_configuration(box.folder, configuration)
    daemon = box.start(sys.executable, "-m", "edgeslm", "run", str(file), log="daemon.log")
    where = ("--broker", f"mqtt://127.0.0.1:{port}", "--node", "hall")
    wait_for_node(box, daemon, where)

    engines = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    engines = [pid for pid in engines if parent_of(pid) == daemon.pid]
    assert len(engines) == 2
    seen: set[tuple[str, str, str]] = set()
    for task, text in (("triage", "smoke"), ("vector", "hello"), ("say", "hello"), ("fields", "press 4")):
        request = [sys.executable, "-m", "edgeslm", "request", task, text, *where]
        assert json.loads(box.run(*request))["status"] == "ok"
        for pid in (daemon.pid, *engines):
            seen |= connections(pid)
        allowed = THREADS + (GRAMMAR_THREADS if task == "fields" else 0)
        for pid in (daemon.pid, *engines):
            assert len(threads(pid)) <= allowed, threads(pid)
            assert set(threads(pid)) <= NAMES

    broker = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}:{port:04X}"
    assert [(protocol, there) for protocol, _, there in seen] == [("tcp", broker)]
    assert not any(connections(pid) for pid in engines)
    for pid in engines:  # from the very start of the process, so before any import
        assert b"ORT_DISABLE_TELEMETRY=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert "onnxruntime" not in Path(f"/proc/{daemon.pid}/maps").read_text()
    if box.enter:
        assert attempts_to_leave(daemon.pid) == dict.fromkeys(attempts_to_leave(daemon.pid), 0)
    daemon.terminate()
    assert daemon.wait(WAIT_S) == 0
    assert [name for name in box.written if not name.startswith("xdg/state/edgeslm/")] == []


def wait_for_node(box: Box, daemon: subprocess.Popen[bytes], where: Sequence[str]) -> None:
    """Until it answers: the first request waits for the models."""
    command = [*box.enter, sys.executable, "-m", "edgeslm", "request", "vector", "x", *where]
    while subprocess.run(command, env=box.environment, capture_output=True, check=False).returncode:
        assert daemon.poll() is None, (box.folder / "daemon.log").read_text()


def test_the_engine_switches_the_reports_off_by_itself(box: Box) -> None:
    """Whoever starts it: the variable is set before the libraries are imported."""
    if box.enter:
        box.enter = ()  # needs no network
    for module in ("decoder", "encoder"):
        code = f"import os, edgeslm.engine.worker.{module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        assert box.run(sys.executable, "-c", code) == "1\n"
    assert box.written == []
