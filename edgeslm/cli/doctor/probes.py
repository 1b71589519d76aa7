"""Probes: what the doctor asks of this machine, its libraries and the network. Judges nothing."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.bundle.performance import measure_board
from edgeslm.config.loader import Config
from edgeslm.engine.libraries import import_in_child
from edgeslm.hardware import board
from edgeslm.hardware.board_profiles import Board

if TYPE_CHECKING:
    from edgeslm.mqtt.probe import Probe

WRITES = 24
"""Synced writes that are timed; fewer where they take longer than :data:`MEASURING_S` together."""
SERVICE = "systemd/system/edgeslm.service.d/10-edgeslm.conf"
BLOCK = b"\0" * 4096
MEASURING_S = 3.0


class Probes:
    """Asks anew each time. ``root`` is where /proc and /sys are."""

    root = Path("/")

    def has_service(self) -> bool:
        """Whether edgeslm.service is installed, with its sandbox."""
        return any((self.root / place / SERVICE).exists() for place in ("usr/lib", "usr/local/lib", "etc"))

    def now(self) -> float:
        return time.time()

    def clock_synchronised(self) -> bool | None:
        return board.clock_synchronised()

    def firmware(self) -> str | None:
        return board.ask_firmware()

    def measure_board(self) -> Board:
        """:raises BoardError: its speed can't be measured."""
        return measure_board()

    def distributions(self) -> Iterable[Distribution]:
        """Those of an environment of its own alone: elsewhere other programs use what is there."""
        if sys.prefix == sys.base_prefix:
            return ()
        return (one for one in distributions() if Path(str(one.locate_file(""))).is_relative_to(sys.prefix))

    def load_library(self, module: str) -> bool:
        """Whether a library has CUDA. :raises JobError: it doesn't load."""
        return import_in_child(module)

    def ask_broker(self, config: Config) -> Probe:
        """:raises EdgeslmError: it doesn't answer."""
        from edgeslm.mqtt.probe import probe_broker  # lazy: only with a configuration

        return probe_broker(config)

    def look_up(self, host: str) -> list[str]:
        """The addresses of a name; none if it has none now."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))

    def measure_writes(self, folder: Path) -> list[float]:
        """Milliseconds that small synced writes took, one after the other, as a journal makes them.

        To a file without a name, so that nothing is left of it. 100 kB at most and some seconds.

        :raises OSError: it can't be written there.
        """
        taken: list[float] = []
        give_up_at = time.monotonic() + MEASURING_S
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            while len(taken) < WRITES and time.monotonic() < give_up_at:
                began = time.perf_counter()
                file.write(BLOCK)
                os.fsync(file.fileno())
                taken.append((time.perf_counter() - began) * 1000)
        return taken


THIS_MACHINE = Probes()
