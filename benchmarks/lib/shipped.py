"""mosquitto with a shipped configuration: started, killed and restarted in one directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.lib.paths import ROOT

CONFIGURATIONS = ROOT / "firmware-config" / "mosquitto"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
START_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningBroker:
    """A mosquitto whose ``mosquitto.conf`` is in ``folder`` and listens on ``port``."""

    def __init__(self, folder: Path, port: int, *, program: str = "mosquitto") -> None:
        found = shutil.which(program, path=PATH)
        if found is None:
            raise SystemExit(f"{program} is missing: apt-get install mosquitto")
        self._command = [found, "-c", str(folder / "mosquitto.conf")]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def write(self, settings: str) -> None:
        if os.geteuid() == 0:  # as root it would become a user who can't read the folder
            settings = f"user root\n{settings}"
        (self._folder / "mosquitto.conf").write_text(settings)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise SystemExit("the broker isn't running")
        return self._process.pid

    def start(self) -> None:
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        give_up_at = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.end(signal.SIGKILL)
                log_text = (self._folder / "mosquitto.log").read_text(errors="replace")
                raise SystemExit(f"mosquitto didn't start:\n{log_text}")
            time.sleep(0.02)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(START_S)


class ShippedBroker(RunningBroker):
    """Profile ``strict``, ``balanced`` or ``sqlite-2.1``, with listener, login and place of ``folder``.

    ``program`` is the broker, for a mosquitto off the path; ``plugin`` is where 2.1's persist-sqlite is.
    """

    def __init__(
        self, profile: str, folder: Path, *, program: str = "mosquitto", plugin: Path | None = None
    ) -> None:
        super().__init__(folder, free_port(), program=program)
        settings = (CONFIGURATIONS / f"{profile}.conf").read_text(encoding="utf-8")
        for line, here in (
            ("listener 1883", f"listener {self.port} 127.0.0.1"),
            ("password_file /etc/mosquitto/edgeslm.passwd", ""),
            ("allow_anonymous false", "allow_anonymous true"),
            (r"(?:# )?persistence_location /var/lib/mosquitto/", f"persistence_location {folder}/"),
        ):
            settings, replaced = re.subn(f"(?m)^{line}$", here, settings)
            if replaced != 1:
                raise SystemExit(f"{profile}.conf has no line {line!r} any more")
        if plugin is not None:
            settings = re.sub(r"(?m)^global_plugin .*$", f"global_plugin {plugin}", settings)
        self.write(settings)
