"""Doctor checks of the state folder's disk: free space, permissions, time of synced writes."""

from __future__ import annotations

import os
import shutil
import statistics
from pathlib import Path

from edgeslm.cli.doctor.finding import MB, Finding, megabytes
from edgeslm.cli.doctor.probes import Probes
from edgeslm.config.loader import Config
from edgeslm.config.schema import default_state_dir

SLOW_MS = 50.0
"""Duration of a synced write, in milliseconds, above which a disk counts as slow.

Good SD cards take 5 to 20 ms, worn SD cards 100 ms or more, and SSDs a few milliseconds.
"""


def judge_writes(config: Config | None, probes: Probes) -> list[Finding]:
    """Judges the time of synced writes; no finding if the folder doesn't exist yet or isn't writable."""
    folder = config.state_dir if config is not None else default_state_dir()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return []
    try:
        taken = probes.measure_writes(folder)
    except OSError as error:
        advice = "see what `dmesg` says of the card; it may be at its end"
        return [Finding("disk speed", "bad", f"{folder} can't be written: {error.strerror}", advice)]
    usual, worst = statistics.median(taken), max(taken)
    text = f"a synced write takes {usual:.1f} ms, the slowest of {len(taken)} took {worst:.0f} ms"
    if usual < SLOW_MS:
        return [Finding("disk speed", "ok", text)]
    advice = "results wait for such writes: take a card of class A1 or A2, or an SSD"
    return [Finding("disk speed", "warn", f"{text}: slow", advice)]


def judge_disk(config: Config | None) -> Finding:
    folder = config.state_dir if config is not None else default_state_dir()
    nearest = folder
    while not nearest.is_dir() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        return Finding("disk", "bad", f"{folder}: {error.strerror}", "choose another state_dir")
    return judge_free(free, folder, is_writable=os.access(nearest, os.W_OK))


def judge_free(free: int, folder: Path, *, is_writable: bool) -> Finding:
    """Judges the free space. :param free: free space in bytes."""
    text = f"{megabytes(free)} free for {folder}"
    if free < 100 * MB:
        return Finding("disk", "bad", text, "make room: the daemon can't keep its state")
    if not is_writable:
        return Finding("disk", "warn", f"{folder} can't be written by this user", "run as the daemon's user")
    if free < 1000 * MB:
        return Finding("disk", "warn", text, "make room before the next bundle is installed")
    return Finding("disk", "ok", text)
