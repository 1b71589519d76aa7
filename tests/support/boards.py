"""Fake boards for tests of ``edgeslm doctor``, made of files: a Raspberry Pi 4 and an N100."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeslm.cli.doctor import Finding, examine
from edgeslm.cli.doctor.probes import Probes
from edgeslm.config.loader import Config, parse_config
from edgeslm.engine.libraries import GENAI
from edgeslm.hardware.board_profiles import Board
from edgeslm.mqtt.probe import Probe

T = TypeVar("T")

PI_4_CPU = "".join(
    f"""processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
    for core in range(4)
)


N100_CPU = "".join(
    f"""processor\t: {core}
vendor_id\t: GenuineIntel
model name\t: Intel(R) N100
flags\t\t: fpu sse2 ssse3 fma avx f16c avx2 avx_vnni

"""
    for core in range(4)
)


def meminfo(total_mb: int, available_mb: int) -> str:
    return f"MemTotal:    {total_mb * 1000} kB\nMemFree:   1 kB\nMemAvailable:   {available_mb * 1000} kB\n"


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


MACHINE = Board("this", "a test", 4, 8 * 10**9, 15.0, 200.0, 200.0)


@dataclass
class FakeProbes(Probes):
    """A board made of files. By default libraries load, the clock is right and the broker answers; an error
    given instead is raised."""

    root: Path
    time: float = field(default_factory=time.time)
    clock: bool | None = True
    said: str | None = None
    board: Board | Exception = MACHINE
    has_cuda: bool = False
    loading: Exception | None = None
    broker: Probe | Exception = field(default_factory=lambda: Probe(notes=["answers in 1 ms"]))
    addresses: Sequence[str] = ("192.168.1.9",)
    writes_ms: Sequence[float] | Exception = (4.0, 5.0, 60.0)

    def now(self) -> float:
        return self.time

    def clock_synchronised(self) -> bool | None:
        return self.clock

    def firmware(self) -> str | None:
        return self.said

    def measure_board(self) -> Board:
        return _given(self.board)

    def distributions(self) -> tuple[()]:
        return ()

    def load_library(self, module: str) -> bool:
        if self.loading is not None:
            raise self.loading
        return self.has_cuda and module == GENAI

    def ask_broker(self, config: Config) -> Probe:
        return _given(self.broker)

    def look_up(self, host: str) -> list[str]:
        return list(self.addresses)

    def measure_writes(self, folder: Path) -> list[float]:
        return list(_given(self.writes_ms))


def _given(answer: T | Exception) -> T:
    if isinstance(answer, Exception):
        raise answer
    return answer


def look(
    root: Path, config: Config | None = None, bundles: tuple[Path, ...] = (), **probes: Any
) -> dict[str, Finding]:
    """The last finding of each subject."""
    found = examine(config, bundles, probes=FakeProbes(root, **probes))
    assert all(finding.advice for finding in found if finding.level != "ok")
    assert not any(finding.advice for finding in found if finding.level == "ok")
    return {finding.subject: finding for finding in found}


def make_bundle(folder: Path, megabytes: int) -> Path:
    """A bundle with a sparse weights file; only its size matters."""
    folder.mkdir(parents=True)
    with (folder / "model.onnx").open("wb") as stream:
        stream.truncate(megabytes * 1_000_000)
    manifest = {
        "format": 1,
        "name": folder.name,
        "kind": "decoder",
        "architecture": "LlamaForCausalLM",
        "source": {"id": "test"},
        "files": [
            {"path": "model.onnx", "bytes": megabytes * 1_000_000, "sha256": hashlib.sha256().hexdigest()}
        ],
        "context_length": 2048,
        "kv_bytes_per_token": 46080,
        "created": "2026-01-01T00:00:00Z",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def config_with(bundles: dict[str, Path], broker: str = "{url: mqtt://localhost}") -> Config:
    models = ", ".join(f"{name}: {{bundle: {path}}}" for name, path in bundles.items())
    task = f"{{kind: generate, model: {next(iter(bundles))}}}"
    return parse_config(f"node: n\nbroker: {broker}\nmodels: {{{models}}}\ntasks: {{t: {task}}}")


def write_memory(root: Path, available: int) -> None:
    """What the kernel tells of free memory, in bytes, below ``root``."""
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 4000000 kB\nMemAvailable: {available // 1024} kB\n")
