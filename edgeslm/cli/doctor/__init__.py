"""``edgeslm doctor``: what this board is, what fits on it, what is wrong, and what to do about it.

Facts come from ``hardware.board``; the modules here judge them, one subject each. The inference libraries are
imported in a child process alone, since an instruction that the CPU lacks ends what imports them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeslm.bundle.performance import measure_board
from edgeslm.cli.doctor.bundles import judge_bundles, judge_signatures
from edgeslm.cli.doctor.connection import ask_broker, judge_broker, judge_reach, judge_secrets, look_up
from edgeslm.cli.doctor.disk import judge_disk, judge_writes, measure_writes
from edgeslm.cli.doctor.distributions import judge_distributions, judge_extras
from edgeslm.cli.doctor.documents import judge_collections, judge_homes
from edgeslm.cli.doctor.finding import Finding, render
from edgeslm.cli.doctor.machine import (
    judge_board,
    judge_clock,
    judge_cpu,
    judge_heat,
    judge_memory,
    judge_profile,
)
from edgeslm.cli.doctor.software import judge_libraries, judge_pure_libraries, judge_python
from edgeslm.config.loader import Config
from edgeslm.engine.libraries import ImportProbe, import_in_child
from edgeslm.hardware import board
from edgeslm.hardware.board_profiles import Board

__all__ = ["TOKENS", "Finding", "examine", "render"]

TOKENS = 2048
"""Tokens of context that the memory need of a bundle is worked out for."""


def examine(
    config: Config | None = None,
    bundles: Sequence[Path] = (),
    *,
    root: Path = Path("/"),
    probe_library: ImportProbe = import_in_child,
    probe_broker: Callable[[Config], tuple[list[str], list[str]]] | None = None,
    clock: Callable[[], bool | None] = board.clock_synchronised,
    measure: Callable[[], Board] = measure_board,
    measure_disk: Callable[[Path], list[float]] = measure_writes,
    firmware: Callable[[], str | None] = board.ask_firmware,
    resolve: Callable[[str], list[str]] = look_up,
    now: Callable[[], float] = time.time,
    context: int = TOKENS,
) -> list[Finding]:
    """Looks at everything once; takes some seconds, as libraries are loaded and a broker may be asked.

    ``root`` is where /proc and /sys are. Bundles of ``config`` and the given ones, or without any those of
    the starter folder, are measured against the memory with ``context`` tokens, and what the board was
    measured to do says how fast they will be. The probes ask a child process and a broker; tests give others.
    """
    findings = [judge_board(root), *judge_profile(root), *judge_cpu(root), *judge_memory(root)]
    findings += [judge_disk(config), *judge_writes(config, measure_disk)]
    findings += [*judge_heat(root, firmware), judge_clock(clock, now)]
    wanting = [name for name, model in config.models.items() if model.device == "cuda"] if config else []
    findings += [judge_python(), *judge_libraries(probe_library, wanting)]
    findings += [*judge_pure_libraries(), *judge_distributions()]
    findings += judge_bundles(config, bundles, board.read_memory(root), measure, context)
    if config is not None:
        findings += [*judge_extras(config), *judge_signatures(config)]
        findings += [*judge_collections(config), *judge_homes(config)]
        findings += [*judge_secrets(config.broker), *judge_broker(config, probe_broker or ask_broker)]
        findings += judge_reach(config, root, resolve)
    return findings
