"""The units of a node and of hawkBit's client under a real systemd: two users, and a rollout between them.

The engines are fake; what is shown are owners, modes and the sandbox.
"""

from __future__ import annotations

import json
import shlex
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from tests.support.apps import WAIT_S, App
from tests.support.booted import Booted, skip_where_it_cannot_boot
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, FAKE_RUN, packages
from tests.support.paths import ROOT
from tests.support.rollout.hawkbits import FakeHawkbit, configured, pack

pytestmark = pytest.mark.e2e

NODE, CLIENT = "edgeslm.service", "edgeslm-hawkbit.service"
PYTHON = f"/opt/edgeslm/base/bin/python{sysconfig.get_python_version()}"
RUN = f"""
from edgeslm.update import checks
async def passed(*_, **__): pass
checks.smoke_test = passed  # it would load the fake weights
{FAKE_RUN}
"""
PROGRAM = f"""#!/bin/sh
export PYTHONPATH=/opt/edgeslm/code:/opt/edgeslm/packages LD_LIBRARY_PATH=/opt/edgeslm/base/lib
if [ "$1" = run ]; then shift && exec {PYTHON} -c {shlex.quote(RUN)} "$@"; fi
exec {PYTHON} -m edgeslm "$@"
"""


@dataclass
class Board:
    system: Booted
    server: Any
    folder: Path

    def as_client(self, command: str) -> int:
        """Exit status of a shell's command as the user of hawkBit's client, without its sandbox."""
        who = ("setpriv", "--reuid=edgeslm-hawkbit", "--regid=edgeslm", "--clear-groups")
        return self.system.run(*who, "sh", "-c", command).returncode


@pytest.fixture
def board(tmp_path: Path, broker: Mosquitto) -> Iterator[Board]:
    skip_where_it_cannot_boot()
    for name in ("board", "bundles", "new"):
        (tmp_path / name).mkdir()
    with FakeHawkbit() as server:
        made = configured(tmp_path / "bundles", server.url, broker.url)
        for name, model in made["models"].items():
            model["bundle"] = f"/srv/bundles/{name}"
        del made["state_dir"]  # it is $STATE_DIRECTORY to the one, and named to the other
        code, libraries = packages()
        places = {
            "/opt/edgeslm/base": Path(sys.base_prefix),
            "/opt/edgeslm/packages": libraries,
            "/opt/edgeslm/code/edgeslm": code / "edgeslm",
            "/opt/edgeslm/code/tests": ROOT / "tests",
            "/srv/bundles": tmp_path / "bundles",
        }
        (tmp_path / "bundles").chmod(0o755)
        with Booted(tmp_path / "board", ROOT / "firmware-config/systemd", places) as system:
            system.put("/opt/edgeslm/bin/edgeslm", PROGRAM, 0o755)
            system.put("/etc/edgeslm/edgeslm.yaml", json.dumps(made))
            yield Board(system, server, tmp_path)


def test_a_rollout_comes_through_from_a_user_that_can_write_nothing_of_the_node(
    board: Board, broker: Mosquitto
) -> None:
    system = board.system
    archive = pack(board.folder / "new", "v2", b"weights of version 2")
    action = board.server.assign("hall", board.server.module("small", archive))
    with App(broker.port, f"{BASE}/state") as app:
        system.call("systemctl", "start", NODE)
        app.take_state(BASE, "online")
    system.call("systemctl", "start", CLIENT)
    give_up_at = time.monotonic() + WAIT_S
    while action.status != "FINISHED":
        assert time.monotonic() < give_up_at, (action.details, system.words)
        time.sleep(0.1)
    digest = load_bundle(board.folder / "new/v2").digest
    assert digest in system.call("cat", "/var/lib/edgeslm/updates/active-hall.json")
    owners = {
        unit: system.call("stat", "-c", "%U:%G", f"/proc/{system.show(unit, 'MainPID')}").strip()
        for unit in (NODE, CLIENT)
    }
    assert owners == {NODE: "edgeslm:edgeslm", CLIENT: "edgeslm-hawkbit:edgeslm"}
    assert board.as_client("cat /var/lib/edgeslm/rollouts/models-hall.json") == 0, "what it is told"
    for attack in (
        "echo {} >/var/lib/edgeslm/signatures.json",
        "echo {} >/var/lib/edgeslm/updates/active-hall.json",
        "echo {} >/var/lib/edgeslm/rollouts/models-hall.json",
        "rm /var/lib/edgeslm/rollouts/models-hall.json",
        "cat /var/lib/edgeslm/updates/active-hall.json",
        "cat /var/lib/edgeslm/journal-hall.sqlite",
    ):
        assert board.as_client(attack) != 0, attack
    assert "Traceback" not in system.words
    system.call("systemctl", "stop", CLIENT, NODE)
