"""Broker with shipped settings and bundle for fake engines, for benchmarks of the bus path."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from benchmarks.lib.paths import ROOT
from edgeslm.cli.demo.broker import free_port

SHIPPED = ROOT / "firmware-config" / "mosquitto"
NOT_HERE = ("listener", "password_file", "allow_anonymous", "acl_file", "persistence_location", "include_dir")
"""Settings of a shipped file that name a place on the device."""


def broker_settings(profile: str, port: int, folder: Path) -> str:
    """The shipped settings of a profile, on a port of this machine and without passwords."""
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", f"persistence_location {folder}/"]
    if os.geteuid() == 0:
        lines.append("user root")  # else it becomes a user who may not write there
    for line in (SHIPPED / f"{profile}.conf").read_text().splitlines():
        if line.strip() and not line.startswith("#") and line.partition(" ")[0] not in NOT_HERE:
            lines.append(line)
    return "\n".join(lines) + "\n"


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


@contextmanager
def broker(profile: str, folder: Path) -> Iterator[tuple[int, int]]:
    """mosquitto with its database in ``folder``: its process id and port."""
    port = free_port()
    file = folder / "mosquitto.conf"
    file.write_text(broker_settings(profile, port, folder))
    with (folder / "mosquitto.log").open("wb") as log:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        process = subprocess.Popen(
            ["mosquitto", "-c", str(file)], stdout=log, stderr=log, env={**os.environ, "PATH": path}
        )
    try:
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def write_bundle(folder: Path) -> Path:
    """A bundle that only a fake engine can load."""
    folder.mkdir()
    weights = b"no weights"
    (folder / "model.onnx").write_bytes(weights)
    manifest = {
        "format": 1,
        "name": "fake",
        "kind": "decoder",
        "architecture": "FakeForCausalLM",
        "source": {"id": "fake"},
        "files": [{"path": "model.onnx", "bytes": len(weights), "sha256": sha256(weights).hexdigest()}],
        "context_length": 2048,
        "kv_bytes_per_token": 64,
        "created": "2026-01-01T00:00:00Z",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
