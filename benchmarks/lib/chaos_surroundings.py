"""Wall clock of a process, and the disk that it writes to, for ``chaos.py load``."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final

SHIM: Final = Path(__file__).with_name("clock_shim.c")
DISK_MB: Final = 64


class Clock:
    """The wall clock of processes that are started with :attr:`environment`; ``shift_s`` is added to it."""

    def __init__(self, folder: Path, name: str) -> None:
        library = folder / "clock_shim.so"
        if not library.exists():
            compiler = os.environ.get("CC", "cc")
            command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SHIM), "-ldl"]
            try:
                subprocess.run(command, check=True)
            except (OSError, subprocess.CalledProcessError):
                raise SystemExit(
                    f"{compiler} can't build {SHIM.name}: apt-get install gcc libc6-dev"
                ) from None
        self._file = folder / f"{name}.clock"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}
        self.shift_s = 0

    def step(self, shift_s: int) -> None:
        """Sets the clock ``shift_s`` away from the machine's, at once."""
        self.shift_s = shift_s
        with self._file.open("r+b") as file:
            file.write(shift_s.to_bytes(8, "little", signed=True))


class Disk:
    """A small file system in memory, which can be filled to its last byte. Only root may mount it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "edgeslm-chaos", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"a disk that can be filled needs root: {done.stderr.strip()}")

    def fill(self) -> None:
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        continue

    def empty(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
