"""The demo's broker: mosquitto or amqtt on a free loopback port, stopped when the demo ends."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeslm.config.extras import install_line
from edgeslm.errors import BrokerError

START_S = 15.0

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 256
max_queued_messages 10000
"""

# amqtt without the default plugins that a loopback demo doesn't need.
AMQTT = """\
listeners: {{default: {{type: tcp, bind: "127.0.0.1:{port}"}}}}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}
"""


@dataclass(frozen=True, slots=True)
class DemoBroker:
    """A running broker. ``keeps_messages``: whether the broker keeps all messages that it acknowledges."""

    name: str
    port: int
    keeps_messages: bool

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


@contextmanager
def start_broker(folder: Path) -> Iterator[DemoBroker]:
    """Starts mosquitto if installed, else amqtt; the broker's files are in ``folder``.

    :raises BrokerError: neither broker is installed, or the broker doesn't start.
    """
    port = free_port()
    mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if mosquitto is not None:
        file = folder / "mosquitto.conf"
        file.write_text(MOSQUITTO.format(port=port))
        command = [mosquitto, "-c", str(file)]
    elif importlib.util.find_spec("amqtt") is not None:
        file = folder / "amqtt.yaml"
        file.write_text(AMQTT.format(port=port))
        command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(file)]
    else:
        raise BrokerError(
            f"the demo needs a broker: apt-get install mosquitto, or {install_line('demo-broker')}"
        )
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0)
    try:
        _wait_for(process, port, folder / "broker.log")
        yield DemoBroker("mosquitto" if mosquitto else "amqtt", port, mosquitto is not None)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_free(port: int) -> bool:
    """Whether a server may listen at ``port`` of the loopback interface."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
    raise BrokerError(f"the broker did not start: {last or 'it said nothing'}")
