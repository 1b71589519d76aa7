"""The machine's memory as the kernel counts it; ``tests/unit/cli/doctor`` has the rest of a board."""

from __future__ import annotations

import subprocess
import sys


def test_the_peak_of_memory_is_not_that_of_a_larger_parent() -> None:
    child = "from edgeslm.hardware.board import peak_rss_bytes; print(peak_rss_bytes())"
    parent = (
        "import subprocess, sys; held = b'x' * 300_000_000; "
        f"subprocess.run([sys.executable, '-P', '-c', {child!r}], check=True)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", parent], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 250_000_000
