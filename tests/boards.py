"""Boards made of files for tests of ``edgeslm doctor``: a Raspberry Pi 4, an N100, and what is on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edgeslm.cli.doctor import Finding, examine
from edgeslm.config.loader import Config, parse_config
from edgeslm.engine.libraries import ImportProbe
from edgeslm.hardware.board_profiles import Board
from edgeslm.ipc.job import JobError

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


def child(status: int, errors: str = "") -> ImportProbe:
    """A process that imports a library and ends so."""

    def probe(module: str, /) -> bool:
        if status:
            raise JobError("ended", "its process ended unexpectedly", status, errors)
        return False

    return probe


MACHINE = Board("this", "a test", 4, 8 * 10**9, 15.0, 200.0, 200.0)


def look(root: Path, config: Config | None = None, bundles: tuple[Path, ...] = ()) -> dict[str, Finding]:
    """Findings by subject; a board whose libraries load, whose clock is right and whose broker answers."""
    found = examine(
        config,
        bundles,
        root=root,
        probe_library=child(0),
        probe_broker=lambda config: (["answers in 1 ms"], []),
        clock=lambda: True,
        measure=lambda: MACHINE,
        measure_disk=lambda folder: [4.0, 5.0, 60.0],
        resolve=lambda host: ["192.168.1.9"],
    )
    assert all(finding.advice for finding in found if finding.level != "ok")
    assert not any(finding.advice for finding in found if finding.level == "ok")
    return {finding.subject: finding for finding in found}


def make_bundle(folder: Path, megabytes: int) -> Path:
    """A bundle whose weights are a hole in a file: the arithmetic only looks at sizes."""
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
