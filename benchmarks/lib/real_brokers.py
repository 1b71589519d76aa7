"""Brokers of several makers, each in a folder of its own: started, stopped and killed.

mosquitto, RabbitMQ and nats-server run with the shipped configurations, but for listener, login and place;
FlashMQ and NanoMQ with the settings that keep the most. A program off the path is named as ``KIND=PATH``. All
listen on the loopback interface alone, and end with the benchmark.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from benchmarks.lib.paths import ROOT
from benchmarks.lib.shipped import PATH, ShippedBroker, free_port

CONFIGURATIONS: Final = ROOT / "firmware-config"
RABBITMQ: Final = "/usr/lib/rabbitmq/bin"
"""Debian's programs in ``/usr/sbin`` change to the user of the system's own broker."""
START_S: Final = 120.0
STOP_S: Final = 60.0


class RealBroker(Protocol):
    """A broker that can be killed. ``port`` stays the same between starts."""

    @property
    def port(self) -> int: ...
    def start(self) -> None:
        """Returns when the broker listens. :raises SystemExit: it doesn't start."""

    def stop(self) -> None: ...
    def kill(self) -> None:
        """By SIGKILL, with all its child processes; what it wrote to its files stays."""


class Mosquitto(ShippedBroker):
    """mosquitto with profile ``strict``, ``balanced`` or ``sqlite-2.1``."""

    def stop(self) -> None:
        self.end()

    def kill(self) -> None:
        self.end(signal.SIGKILL)


class ProcessBroker:
    """A broker that is a command with environment variables; killed with its whole process group."""

    def __init__(
        self, folder: Path, command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.port = port
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        with (self.folder / "words.txt").open("ab") as words:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it listens, after :meth:`launch`."""
        give_up_at = time.monotonic() + START_S
        while not listens(self.port):
            if self._process is None or self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                words = (self.folder / "words.txt").read_text(errors="replace")[-1500:]
                raise SystemExit(f"{self._command[0]} didn't start:\n{words}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        elif process.poll() is None:
            process.send_signal(how)
        process.wait(STOP_S)


class RabbitMQ(ProcessBroker):
    """A node of RabbitMQ with ``firmware-config/rabbitmq``, alone or in a cluster on this machine.

    Its MQTT listener is ``port``, that for AMQP ``amqp_port``. ``cluster`` are the names of all nodes of its
    cluster; these share ``home``, where the cookie is. The names are at ``localhost``, and a port mapper
    (epmd) of its own knows them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "edgeslm",
        cluster: Sequence[str] = (),
        home: Path | None = None,
    ) -> None:
        if not Path(RABBITMQ, "rabbitmq-server").exists():
            raise SystemExit("RabbitMQ is missing: apt-get install rabbitmq-server")
        self.name = f"{name}@localhost"
        self.home = home or folder
        port, self.amqp_port = free_port(), free_port()
        text = (CONFIGURATIONS / "rabbitmq/rabbitmq.conf").read_text("utf-8")
        settings = here(
            text,
            ("mqtt.listeners.tcp.default = 1883", f"mqtt.listeners.tcp.default = 127.0.0.1:{port}"),
            ("anonymous_login_user = none", "anonymous_login_user = guest"),
        )
        settings += f"listeners.tcp.default = 127.0.0.1:{self.amqp_port}\n"
        if cluster:
            settings += "cluster_formation.peer_discovery_backend = classic_config\n"
            for number, one in enumerate(cluster, 1):
                settings += f"cluster_formation.classic_config.nodes.{number} = {one}@localhost\n"
        (folder / "rabbitmq.conf").write_text(settings)
        shutil.copy(CONFIGURATIONS / "rabbitmq/enabled_plugins", folder)
        super().__init__(
            folder,
            [f"{RABBITMQ}/rabbitmq-server"],
            port,
            {
                "HOME": str(self.home),
                "ERL_EPMD_PORT": str(free_port()),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": self.name,
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(folder / "data"),
                "RABBITMQ_LOG_BASE": str(folder / "log"),
                "RABBITMQ_CONF_ENV_FILE": "/dev/null",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            },
        )
        self._mapper: subprocess.Popen[bytes] | None = None
        self._has_mapper = True

    def share_mapper(self, other: RabbitMQ) -> None:
        """Uses the port mapper of another node, which is started first and closed last."""
        self._has_mapper = False
        self._environment["ERL_EPMD_PORT"] = other._environment["ERL_EPMD_PORT"]

    def launch(self) -> None:
        if self._mapper is None and self._has_mapper:  # or erl starts one that nobody ends
            self._mapper = subprocess.Popen(
                ["epmd"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        super().launch()

    def wait(self) -> None:
        super().wait()
        self.control("await_startup")

    def control(self, *words: str) -> str:
        """Runs ``rabbitmqctl``; returns its output."""
        done = subprocess.run(
            [f"{RABBITMQ}/rabbitmqctl", "-q", "-n", self.name, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        if done.returncode:
            raise SystemExit(f"rabbitmqctl {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def close(self) -> None:
        """Ends the port mapper too."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()


def nats(folder: Path, program: str) -> ProcessBroker:
    """nats-server with ``firmware-config/nats``, without its logins."""
    port = free_port()
    text = (CONFIGURATIONS / "nats/edgeslm.conf").read_text("utf-8")
    settings = here(
        re.sub(r"(?ms)^authorization \{.*?^\}$", "", text),
        ("listen: 127.0.0.1:4222", f"listen: 127.0.0.1:{free_port()}"),
        ("    listen: 0.0.0.0:1883", f"    listen: 127.0.0.1:{port}"),
        ("    store_dir: /var/lib/nats", f"    store_dir: {folder}/data"),
    )
    (folder / "nats.conf").write_text(settings)
    return ProcessBroker(folder, [program, "-c", str(folder / "nats.conf")], port)


def flashmq(folder: Path, program: str) -> ProcessBroker:
    """FlashMQ, which saves its sessions every five minutes, its minimum."""
    port = free_port()
    (folder / "data").mkdir(exist_ok=True)
    settings = (
        f"storage_dir {folder}/data\nsave_state_interval 300\nlog_file {folder}/flashmq.log\n"
        "allow_anonymous true\nmax_qos_msg_pending_per_client 10000\nexpire_sessions_after_seconds 604800\n"
        "max_packet_size 16777216\n"
        f"listen {{\n  protocol mqtt\n  port {port}\n  inet_protocol ip4\n"
        "  inet4_bind_address 127.0.0.1\n}\n"
    )
    (folder / "flashmq.conf").write_text(settings)
    return ProcessBroker(folder, [program, "--config-file", str(folder / "flashmq.conf")], port)


def nanomq(folder: Path, program: str) -> ProcessBroker:
    """NanoMQ with its cache in SQLite."""
    port = free_port()
    settings = (
        "mqtt {\n  max_packet_size = 16MB\n  max_mqueue_len = 10000\n}\n"
        f'listeners.tcp {{\n  bind = "127.0.0.1:{port}"\n}}\n'
        f'log {{\n  to = [file]\n  level = warn\n  dir = "{folder}"\n  file = "nanomq.log"\n}}\n'
        "auth {\n  allow_anonymous = true\n  no_match = allow\n}\n"
        f'sqlite {{\n  disk_cache_size = 102400\n  mounted_file_path = "{folder}/"\n'
        "  flush_mem_threshold = 1\n}\n"
    )
    (folder / "nanomq.conf").write_text(settings)
    return ProcessBroker(folder, [program, "start", "--conf", str(folder / "nanomq.conf")], port)


KINDS: Final = (
    "mosquitto-strict",
    "mosquitto-balanced",
    "mosquitto-2.1",
    "rabbitmq",
    "nats",
    "flashmq",
    "nanomq",
)
ONLY_311: Final = ("nats",)
"""Those without MQTT 5, by their makers' word; the first test asks them."""


def make_broker(
    kind: str, folder: Path, programs: Mapping[str, str], plugin: Path | None = None
) -> Mosquitto | ProcessBroker:
    """A broker that isn't started yet. ``plugin`` is mosquitto 2.1's persist-sqlite.

    :raises SystemExit: its program isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "rabbitmq":
        return RabbitMQ(folder)
    if kind.startswith("mosquitto"):
        profile = "sqlite-2.1" if kind == "mosquitto-2.1" else kind.removeprefix("mosquitto-")
        return Mosquitto(profile, folder, program=programs.get(kind, "mosquitto"), plugin=plugin)
    program = find_program(kind, programs)
    return {"nats": nats, "flashmq": flashmq, "nanomq": nanomq}[kind](folder, program)


def find_program(kind: str, programs: Mapping[str, str]) -> str:
    """The path of a broker's program. :raises SystemExit: it isn't there."""
    usual = {"nats": "nats-server", "rabbitmq": f"{RABBITMQ}/rabbitmq-server"}
    usual |= dict.fromkeys(("mosquitto-strict", "mosquitto-balanced"), "mosquitto")
    name = programs.get(kind, usual.get(kind, kind))
    found = shutil.which(name, path=PATH)
    if found is None:
        raise SystemExit(f"{kind} isn't there; name its program: --program {kind}=PATH")
    return found


def is_there(kind: str, programs: Mapping[str, str]) -> bool:
    try:
        find_program(kind, programs)
    except SystemExit:
        return False
    return True


def version_of(kind: str, programs: Mapping[str, str]) -> str:
    """What the program says of itself; empty if it says nothing."""
    if kind == "rabbitmq":
        done = subprocess.run([f"{RABBITMQ}/rabbitmqctl", "--version"], capture_output=True, text=True)
    else:
        words = {"mosquitto": ["-h"], "nanomq": ["--version"]}.get(kind.partition("-")[0], ["--version"])
        done = subprocess.run([find_program(kind, programs), *words], capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else ""


def here(settings: str, *changes: tuple[str, str]) -> str:
    """The settings of a shipped file with lines replaced by those of this machine.

    :raises SystemExit: the file has no such line any more.
    """
    for line, instead in changes:
        if settings.count(f"{line}\n") != 1:
            raise SystemExit(f"a shipped configuration has no line {line!r} any more")
        settings = settings.replace(f"{line}\n", f"{instead}\n")
    return settings


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
