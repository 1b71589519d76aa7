"""Probes: the doctor's measurements of this machine, its libraries and the network."""

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
"""Maximum number of synced writes that are timed; timing also ends after :data:`MEASURING_S` seconds."""
SERVICE = "systemd/system/edgeslm.service.d/10-edgeslm.conf"
BLOCK = b"\0" * 4096
MEASURING_S = 3.0


class Probes:
    """Measures at each call; nothing is cached. ``root`` is the folder that contains ``proc`` and ``sys``."""

    root = Path("/")

    def has_service(self) -> bool:
        """Whether the systemd unit edgeslm.service, which has a sandbox, is installed."""
        return any((self.root / place / SERVICE).exists() for place in ("usr/lib", "usr/local/lib", "etc"))

    def now(self) -> float:
        return time.time()

    def clock_synchronised(self) -> bool | None:
        return board.clock_synchronised()

    def firmware(self) -> str | None:
        return board.ask_firmware()

    def measure_board(self) -> Board:
        """The board's speed. :raises BoardError: the speed can't be measured."""
        return measure_board()

    def distributions(self) -> Iterable[Distribution]:
        """Packages of the virtual environment.

        Outside a virtual environment the result is empty, since other programs may use the packages, too.
        """
        if sys.prefix == sys.base_prefix:
            return ()
        return (one for one in distributions() if Path(str(one.locate_file(""))).is_relative_to(sys.prefix))

    def load_library(self, module: str) -> bool:
        """Whether a library supports CUDA. :raises JobError: the library doesn't load."""
        return import_in_child(module)

    def ask_broker(self, config: Config) -> Probe:
        """Tests the broker. :raises EdgeslmError: the broker doesn't answer."""
        from edgeslm.mqtt.probe import probe_broker  # lazy: only with a configuration

        return probe_broker(config)

    def look_up(self, host: str) -> list[str]:
        """IP addresses of a host name; empty if it can't be resolved."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))

    def measure_writes(self, folder: Path) -> list[float]:
        """Times small synced writes, like those of the journal. :return: milliseconds of each write.

        At most 100 kB are written to a temporary file within a few seconds.

        :raises OSError: the folder can't be written.
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
