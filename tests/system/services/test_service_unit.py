"""The shipped units under a real systemd, with the real models and broker: does the sandbox let a node work?

systemd applies every directive that this kernel has (:mod:`tests.support.booted`), the address list too.
Two things differ from a board: the program in /opt/edgeslm starts the Python and packages of the tests, and
what it says goes to a file, since there is no journal.
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import App
from tests.support.booted import Booted, skip_where_it_cannot_boot
from tests.support.brokers import Mosquitto, free_port
from tests.support.consoles import Visitor
from tests.support.mqtt.nodes import password_lines
from tests.support.nodes import BASE, packages, real_configuration
from tests.support.paths import ROOT
from tests.support.signers import Signer

pytestmark = pytest.mark.e2e

UNIT, INSTANCE = "edgeslm.service", "edgeslm@hall.service"
PYTHON = f"/opt/edgeslm/base/bin/python{sysconfig.get_python_version()}"
PROGRAM = f"""#!/bin/sh
export PYTHONPATH=/opt/edgeslm/code:/opt/edgeslm/packages LD_LIBRARY_PATH=/opt/edgeslm/base/lib
exec {PYTHON} -m edgeslm "$@"
"""
PROBE = f"""[Service]
Type=oneshot
Restart=no
WatchdogSec=0
Environment=LD_LIBRARY_PATH=/opt/edgeslm/base/lib
ExecStart=
ExecStart={PYTHON} /opt/edgeslm/probe/sandbox_probe.py
"""
PASSWORD = "correct horse"
MANUAL = "# Press 4\n\nGrease the bearings of the press every 40 hours with lithium grease.\n"


@dataclass
class Board:
    system: Booted
    app: App

    def ask(self, task: str, text: str) -> dict[str, Any]:
        self.app.publish(f"{BASE}/req/{task}", {"input": text})
        result = self.app.take(f"{BASE}/res/{task}").json
        assert result["status"] == "ok", result
        body = result["result"]
        assert isinstance(body, dict)
        return body

    def engines(self, unit: str) -> list[str]:
        """Process ids of the node's children, as the board counts them."""
        main = self.system.show(unit, "MainPID")
        return self.system.call("cat", f"/proc/{main}/task/{main}/children").split()


def write_units(folder: Path) -> Path:
    """Those that are shipped, and one that shares their sandbox and probes it."""
    units = shutil.copytree(ROOT / "firmware-config/systemd", folder / "shipped", symlinks=True)
    (units / "probe.service").write_text("[Unit]\nDescription=What can be done in the sandbox\n")
    drop_ins = units / "probe.service.d"
    drop_ins.mkdir()
    (drop_ins / "10-edgeslm.conf").symlink_to("../edgeslm.service.d/10-edgeslm.conf")
    (drop_ins / "20-probe.conf").write_text(PROBE)
    return units


def configuration(broker: Mosquitto, bundles: Path) -> dict[str, Any]:
    url = f"mqtt://localhost:{broker.port}"  # a name, which the sandbox must be able to look up
    made = real_configuration(url, bundles, Path("/nowhere"), state_dir="/var/lib/edgeslm")
    made["broker"] |= {"username": "hall", "password_file": "${CREDENTIALS_DIRECTORY}/edgeslm_password"}
    made["signing"] = {"require_signature": True, "keys": ["/srv/keys/factory.pub"]}
    made["prepare"] = "auto"
    made["console"] = {"listen": f"127.0.0.1:{free_port()}"}
    made["knowledge"] = {
        "manuals": {"path": "/var/lib/edgeslm/manuals", "encoder": "encoder", "watch": ["/srv/manuals"]}
    }
    made["tasks"]["find"] = {"kind": "search", "knowledge": ["manuals"]}
    return made


@pytest.fixture(scope="module")
def board(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    skip_where_it_cannot_boot()
    folder = tmp_path_factory.mktemp("board")
    signer = Signer(tmp_path_factory.mktemp("keys"))
    bundles = tmp_path_factory.mktemp("bundles")
    for name in ("smollm2-135m-int4", "minilm-l6-int8"):
        signer.sign(shutil.copytree(starter / name, bundles / name))
    (manuals := tmp_path_factory.mktemp("manuals")).joinpath("press.md").write_text(MANUAL)
    code, libraries = packages()
    places = {
        "/opt/edgeslm/base": Path(sys.base_prefix),
        "/opt/edgeslm/packages": libraries,
        "/opt/edgeslm/code/edgeslm": code / "edgeslm",
        "/opt/edgeslm/probe": ROOT / "tests/support",
        "/srv/bundles": bundles,
        "/srv/keys": signer.public.parent,
        "/srv/manuals": manuals,
    }
    for place in (bundles, manuals, signer.public.parent):
        place.chmod(0o755)  # pytest makes folders for this user alone
    broker_folder = tmp_path_factory.mktemp("broker")
    lines = password_lines(broker_folder, "hall", PASSWORD)
    broker = Mosquitto(broker_folder, lines, anonymous=False)
    broker.start()
    text = json.dumps(configuration(broker, Path("/srv/bundles")))
    try:
        with (
            Booted(folder, write_units(tmp_path_factory.mktemp("units")), places) as system,
            App(broker.port, f"{BASE}/#", username="hall", password=PASSWORD) as app,
        ):
            system.put("/opt/edgeslm/bin/edgeslm", PROGRAM, 0o755)
            for name in ("edgeslm", "hall"):
                system.put(f"/etc/edgeslm/{name}.yaml", text)
            system.put("/etc/edgeslm/credentials/password", PASSWORD, 0o600)
            yield Board(system, app)
    finally:
        broker.stop()


def test_what_a_node_does_it_can_do_in_its_sandbox(board: Board) -> None:
    """Signatures, a login from a credential, every kind of engine work, a restart, a lost engine."""
    system, app = board.system, board.app
    system.call("systemctl", "start", UNIT)  # returns when the daemon has said READY=1
    app.take_state(BASE, "online")
    assert system.show(UNIT, "StatusText") == "online"
    assert board.ask("triage", "Spindle 3 smells of burnt oil")["label"] in ("normal", "critical")
    assert set(board.ask("fields", "press 4 is too hot")["fields"]) == {"machine"}
    assert len(board.ask("vector", "Spindle 3")["vector"]) == 384
    app.wait_until(
        lambda: any("lithium" in one["text"] for one in board.ask("find", "bearing grease")["passages"]),
        "the watched folder is read",
    )
    health = app.take(f"{BASE}/health", lambda heard: bool(heard.json["memory_bytes"])).json
    assert all(size > 1_000_000 for size in health["memory_bytes"].values()), "it sees its engines"
    before = system.show(UNIT, "MainPID")
    system.call("systemctl", "restart", UNIT)
    assert system.show(UNIT, "MainPID") != before
    app.take_state(BASE, "online")
    system.call("kill", "-KILL", *board.engines(UNIT))
    assert board.ask("triage", "Spindle 3 smells of burnt oil")["label"] in ("normal", "critical")
    assert system.show(UNIT, "NRestarts") == "0", "the daemon lives on and starts its engines itself"


def test_it_prepares_its_model_there(board: Board) -> None:
    """Weights are laid out anew by a process with the lowest priority, and an engine maps what it wrote."""

    def is_prepared() -> bool:
        board.system.hurry()
        models = (heard.json["models"] for heard in board.app.untaken(f"{BASE}/info"))
        return any(each["small"].get("prepared") is True for each in models)

    board.app.wait_until(is_prepared, "an engine runs on what was prepared")
    assert board.ask("triage", "Spindle 3 smells of burnt oil")["label"] in ("normal", "critical")


def test_its_console_shows_it_to_who_has_the_token(board: Board) -> None:
    system = board.system
    made = json.loads(system.call("cat", "/etc/edgeslm/edgeslm.yaml"))
    visitor = Visitor(int(made["console"]["listen"].rpartition(":")[2]))
    assert visitor.ask("/api/node").status == 401
    visitor.sign_in(system.call("cat", "/var/lib/edgeslm/console-token"))
    assert visitor.ask("/api/node").status == 200


def test_a_reload_takes_up_what_was_changed(board: Board) -> None:
    system = board.system
    changed = json.loads(system.call("cat", "/etc/edgeslm/edgeslm.yaml"))
    changed["tasks"]["triage"]["labels"]["odd"] = "look at it"
    system.put("/etc/edgeslm/edgeslm.yaml", json.dumps(changed))
    before = system.show(UNIT, "MainPID")
    system.call("systemctl", "reload", UNIT)
    board.app.take(f"{BASE}/info", lambda heard: "odd" in json.dumps(heard.json["tasks"]["triage"]))
    assert "odd" in board.ask("triage", "Spindle 3 smells of burnt oil")["scores"]
    assert system.show(UNIT, "MainPID") == before


def test_it_is_started_again_when_it_was_killed_and_stops_when_told(board: Board) -> None:
    system, app = board.system, board.app
    while app.untaken(f"{BASE}/state"):
        app.take(f"{BASE}/state")
    before = system.show(UNIT, "MainPID")
    system.call("kill", "-KILL", before)
    app.take_state(BASE, "offline")
    app.take_state(BASE, "online")
    assert system.show(UNIT, "MainPID") != before
    system.call("systemctl", "stop", UNIT)
    assert system.show(UNIT, "Result") == "success"
    app.take_state(BASE, "stopped")
    assert "Traceback" not in system.words


def test_the_template_unit_is_a_node_too(board: Board) -> None:
    board.system.call("systemctl", "start", INSTANCE)
    board.app.take_state(BASE, "online")
    assert len(board.ask("vector", "Spindle 3")["vector"]) == 384
    board.system.call("systemctl", "stop", INSTANCE)


ALLOWED = {
    "keep state",
    "read the memory there is",
    "bind a thread to a core",
    "work when nobody else does",
    "send to this machine",
}


def test_what_a_node_needs_not_it_cannot_do(board: Board) -> None:
    system = board.system
    system.call("systemctl", "start", "probe.service")
    (line,) = [line for line in system.words.splitlines() if line.startswith('{"attempts"')]
    found = json.loads(line)
    succeeded = {name for name, error in found["attempts"].items() if not error}
    assert succeeded == ALLOWED, found["attempts"]
    assert found["attempts"]["send to the world"] == "EPERM"  # no route would be another error
    facts = found["facts"]
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert "0" not in facts["Uid"].split()
    assert not {"sda", "vda", "mem", "kmsg"} & set(facts["devices"].split())
