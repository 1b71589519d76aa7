"""``edgeslm top`` at a real broker: once, as JSON, and live on a terminal that is a pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.cli.main import main
from edgeslm.client.discovery import Discovery
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port

BASE = "edgeslm/v1/hall"


@pytest.fixture
def node(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port) as app:
        app.publish(f"{BASE}/state", {"state": "online", "boot_id": "b"}, retain=True)
        app.publish(f"{BASE}/info", {"tasks": {"triage": {"kind": "classify"}}}, retain=True)
        app.publish(f"{BASE}/health", {"queue": 3, "answers_per_s": {"triage": 1.5}}, retain=True)
        yield app


def test_once(broker: Mosquitto, node: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--broker", broker.url, "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"edgeslm top  {broker.url}")
    assert lines[3].split()[:5] == ["hall", "online", "3", "-", "1.5"]
    assert lines[4].split() == ["triage", "classify", "1.5/s"]


def test_once_as_json(broker: Mosquitto, node: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--broker", broker.url, "--once", "--json", "--node", "hall"]) == 0
    (figures,) = json.loads(capsys.readouterr().out)
    assert (figures["node"], figures["state"], figures["queue"]) == ("hall", "online", 3)
    assert figures["answers_per_s"] == {"triage": 1.5}


@pytest.fixture
def sites(broker: Mosquitto) -> Iterator[App]:
    """A hub: two sites, whose nodes have one name, and one of which is cut off."""
    with App(broker.port) as app:
        for site, link in (("yard", "0"), ("plant", "1")):
            app.publish(f"site/{site}/link", link, retain=True)
            app.publish(f"site/{site}/{BASE}/state", {"state": "online", "boot_id": "b"}, retain=True)
        yield app


def test_the_sites_of_a_hub(
    broker: Mosquitto, sites: App, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # lines are cut at the width of the terminal
    assert main(["top", "--broker", broker.url, "--once", "--sites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 sites, 1 unreachable   2 nodes, 1 up" in lines[0]
    assert [line.split()[:4] for line in lines[3:]] == [
        ["plant", "hall", "online", "-"],
        ["yard", "hall", "unreachable", "since"],
    ]
    assert main(["top", "--broker", broker.url, "--once", "--sites", "--json"]) == 0
    up, cut = json.loads(capsys.readouterr().out)
    assert (up["site"], up["node"], up["unreachable_since"]) == ("plant", "hall", None)
    assert (cut["site"], cut["node"], cut["since_before"]) == ("yard", "hall", True)
    assert cut["unreachable_since"] > 0
    assert main(["top", "--broker", broker.url, "--once", "--json", "--site", "yard"]) == 0
    assert [one["site"] for one in json.loads(capsys.readouterr().out)] == ["yard"]
    assert main(["top", "--broker", broker.url, "--once", "--json", "--prefix", "site/plant/edgeslm"]) == 0
    assert [one["node"] for one in json.loads(capsys.readouterr().out)] == ["hall"]


def test_a_site_that_can_t_be_or_that_nobody_knows(
    broker: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--broker", broker.url, "--once", "--site", "#"]) == 1
    assert "--site #: a site's name may hold a-z" in capsys.readouterr().err
    assert main(["top", "--broker", broker.url, "--once", "--site", "attic"]) == 1
    assert "of any node below site/attic/edgeslm/v1" in capsys.readouterr().err


def test_a_site_that_is_cut_off_while_somebody_looks(broker: Mosquitto, sites: App) -> None:
    terminal = Terminal("--broker", broker.url, "--sites", COLUMNS="100")
    terminal.wait_for("1 unreachable")
    sites.publish("site/plant/link", "0", retain=True)
    terminal.wait_for("2 unreachable")
    terminal.seen = terminal.seen.partition("2 unreachable")[2]
    terminal.wait_for("yard")  # which stands below it
    assert re.search(r"plant +hall +unreachable since \d\d:\d\d:\d\d", terminal.seen)
    assert terminal.interrupt() == 130, terminal.seen


def test_a_node_that_nobody_knows(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--broker", broker.url, "--once", "--node", "attic"]) == 1
    assert "has heard nothing of the node attic" in capsys.readouterr().err


def test_an_interrupt_while_a_lock_is_released(
    broker: Mosquitto, node: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(discovery: Discovery, timeout_s: float) -> bool:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    monkeypatch.setattr(Discovery, "wait", wait)
    assert main(["top", "--broker", broker.url, "--json"]) == 130


def test_no_broker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--broker", f"mqtt://127.0.0.1:{free_port()}"]) == 1
    assert "Nothing listens" in capsys.readouterr().err


class Terminal:
    """``edgeslm top`` on a terminal of its own."""

    def __init__(self, *arguments: str, stdin: int | None = None, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeslm", "top", *arguments],
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **environment},
        )
        self._settings = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.seen = ""

    def wait_for(self, text: str) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while text not in self.seen:
            assert time.monotonic() < give_up_at, self.seen
            if select.select([self._ours], [], [], 1.0)[0]:
                self.seen += os.read(self._ours, 65536).decode()

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def is_stopped(self) -> bool:
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._theirs) == self._settings

    def interrupt(self) -> int:
        self.send(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Waits for the process. :return: its exit status."""
        status = self._process.wait(WAIT_S)
        while select.select([self._ours], [], [], 0)[0]:
            self.seen += os.read(self._ours, 65536).decode()
        assert self.seen.endswith("\x1b[?25h\x1b[?1049l") and self.is_as_before
        os.close(self._theirs)
        os.close(self._ours)
        return status


def test_live_on_a_terminal(broker: Mosquitto, node: App) -> None:
    terminal = Terminal("--broker", broker.url)
    terminal.wait_for("online")
    assert "\x1b[?1049h" in terminal.seen
    node.publish(f"{BASE}/state", {"state": "offline", "boot_id": "b"}, retain=True)
    terminal.wait_for("offline")
    terminal.wait_for("\x1b[31m")
    broker.stop()
    terminal.wait_for("Trying again")
    assert terminal.interrupt() == 130


def test_q_quits_and_other_keys_do_nothing(broker: Mosquitto, node: App) -> None:
    terminal = Terminal("--broker", broker.url)
    terminal.wait_for("\nq: quit   --node NAME")
    assert not terminal.is_as_before
    terminal.type(b"x\x1b[A")
    terminal.seen = ""
    terminal.wait_for("q: quit")
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(number: int, broker: Mosquitto, node: App) -> None:
    terminal = Terminal("--broker", broker.url)
    terminal.wait_for("online")
    terminal.send(number)
    assert terminal.end() == 128 + number


def test_the_terminal_is_free_while_it_is_suspended(broker: Mosquitto, node: App) -> None:
    terminal = Terminal("--broker", broker.url)
    terminal.wait_for("online")
    terminal.seen = ""
    terminal.send(signal.SIGTSTP)
    terminal.wait_for("\x1b[?1049l")
    give_up_at = time.monotonic() + WAIT_S
    while not terminal.is_stopped:
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    assert terminal.is_as_before
    terminal.seen = ""
    terminal.send(signal.SIGCONT)
    terminal.wait_for("\x1b[?1049h")
    terminal.wait_for("online")
    terminal.type(b"q")
    assert terminal.end() == 0


def test_a_terminal_without_keys_names_ctrl_c(broker: Mosquitto, node: App) -> None:
    terminal = Terminal("--broker", broker.url, "--node", "hall", stdin=subprocess.DEVNULL)
    terminal.wait_for("\nCtrl-C: quit\x1b[J")
    assert terminal.interrupt() == 130


def test_no_colours_where_they_aren_t_wanted(broker: Mosquitto, node: App) -> None:
    terminal = Terminal("--broker", broker.url, NO_COLOR="1")
    terminal.wait_for("online")
    terminal.interrupt()
    assert "\x1b[1m" not in terminal.seen
    assert "\x1b[31m" not in terminal.seen
