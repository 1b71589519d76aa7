"""Real mosquitto brokers for tests, each on a free port with its own configuration."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

START_S = 60.0
CONFIGURATIONS = ROOT / "firmware-config" / "mosquitto"


class Mosquitto:
    """A broker in ``folder``. ``lines`` are added to its configuration after the listener."""

    def __init__(self, folder: Path, lines: str = "", *, anonymous: bool = True) -> None:
        self._folder = folder
        self._lines = lines
        self._anonymous = anonymous
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """The broker's log over all its starts."""
        return (self._folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise AssertionError("mosquitto isn't installed; install the package, or run scripts/setup test")
        config = self._folder / "mosquitto.conf"
        config.write_text(self._settings())
        with (self._folder / "mosquitto.log").open("ab") as log:
            # It may write mosquitto.db to the current folder.
            self._process = subprocess.Popen(
                [program, "-c", str(config)], cwd=self._folder, stdout=log, stderr=log
            )
        give_up_at = time.monotonic() + START_S
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.stop()
                raise AssertionError(f"mosquitto didn't start:\n{self.log}")
            time.sleep(0.02)

    def _settings(self) -> str:
        """Its configuration."""
        return (
            f"listener {self.port} 127.0.0.1\n"
            f"allow_anonymous {str(self._anonymous).lower()}\n"
            "set_tcp_nodelay true\n"
            "log_type all\n" + ("user root\n" if os.geteuid() == 0 else "") + self._lines
            # As root, mosquitto would change to a user who can't read the test's folder.
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stops the broker by SIGTERM; it may write its sessions to disk."""
        self._end("terminate")

    def kill(self) -> None:
        """Kills the broker by SIGKILL. Files that it wrote stay: it isn't a power cut."""
        self._end("kill")

    def freeze(self) -> None:
        """Stops the process until :meth:`thaw`; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        give_up_at = time.monotonic() + START_S
        while process.returncode is None:
            getattr(process, how)()  # again and again: mosquitto loses a SIGTERM that comes while it starts
            try:
                process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                if time.monotonic() > give_up_at:
                    raise


def shipped_lines(profile: str, folder: Path) -> str:
    """A shipped configuration, ``strict`` or ``balanced``, for a :class:`Mosquitto` in ``folder``: without
    listener and login, and with its database in the folder."""
    settings = (CONFIGURATIONS / f"{profile}.conf").read_text(encoding="utf-8")
    for line, here in (
        ("listener 1883\n", ""),
        ("password_file /etc/mosquitto/edgeslm.passwd\n", ""),
        ("allow_anonymous false\n", ""),
        ("# persistence_location /var/lib/mosquitto/\n", f"persistence_location {folder}/\n"),
    ):
        assert settings.count(line) == 1
        settings = settings.replace(line, here)
    return settings


def free_port() -> int:
    """A free port below the ephemeral range: otherwise a client of another test could take the port of a
    broker that is restarted."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def make_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    """Starts real brokers: ``make_broker(lines, anonymous=True, folder=None)``; they end with the test."""
    brokers: list[Mosquitto] = []

    def make(lines: str = "", *, anonymous: bool = True, folder: Path | None = None) -> Mosquitto:
        broker = Mosquitto(folder or tmp_path_factory.mktemp("broker"), lines, anonymous=anonymous)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    """A real broker without any limit that would get in the way."""
    return make_broker()
