"""``install.sh`` where a real systemd runs: nodes are started on what is new, or go on with what was there.

The program is a stand-in that tells systemd it is ready, or ends at once; the units are the shipped ones.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.booted import Booted, skip_where_it_cannot_boot
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e

BASE = "/opt/base"
UNIT, INSTANCE = "edgeslm.service", "edgeslm@hall.service"

PYTHON = """#!/bin/sh
# Stands for the system's Python and for that of the environment. A "wheel" is the program's text.
shift # -I
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && : >"$3/pyvenv.cfg" ;;
    "-m pip")
        for source in "$@"; do :; done
        case $source in *.txt) exit 0 ;; esac
        lists=${0%/bin/*}/lib/python3.99/site-packages/edgeslm/requirements
        mkdir -p "$lists" && : >"$lists/device.txt" && : >"$lists/device-documents.txt"
        cp "$source" "${0%/*}/edgeslm" && chmod +x "${0%/*}/edgeslm"
        ;;
    "-m edgeslm") echo "edgeslm 0.1.0" ;;
    *) exit 0 ;;
esac
"""
PROGRAM = f"""#!{BASE}/bin/python{sysconfig.get_python_version()}
import os, signal, socket, sys, time
print("version {{version}}", flush=True)
if {{version}} < 0:
    sys.exit(3)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
    to.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.sigwait([signal.SIGTERM])
"""


class Machine:
    def __init__(self, system: Booted) -> None:
        self.system = system
        self.put_version(1)

    def put_version(self, version: int) -> None:
        """``version`` is what will be installed next; one below 0 doesn't come up."""
        self.system.put("/srv/edgeslm.whl", PROGRAM.format(version=version))

    def install(self, *arguments: str) -> tuple[int, str]:
        command = ("sh", "/opt/firmware-config/install.sh", "/srv/edgeslm.whl", *arguments)
        done = self.system.run("env", "EDGESLM_PYTHON=/srv/python", f"LD_LIBRARY_PATH={BASE}/lib", *command)
        return done.returncode, done.stdout + done.stderr

    def is_active(self, unit: str) -> bool:
        return self.system.run("systemctl", "is-active", unit).returncode == 0

    @property
    def version(self) -> str:
        """Of the program that was started last."""
        return self.system.words.split("version ")[-1].strip()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    skip_where_it_cannot_boot()
    bundle = tmp_path / "starter/small"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    places = {BASE: Path(sys.base_prefix), "/opt/firmware-config": ROOT / "firmware-config"}
    for name in ("units", "board"):
        (tmp_path / name).mkdir()
    with Booted(
        tmp_path / "board",
        tmp_path / "units",
        {**places, "/srv/starter": bundle.parent},
        later=(UNIT, "edgeslm@.service"),
    ) as system:
        system.put("/srv/python", PYTHON, 0o755)
        yield Machine(system)


def test_a_node_is_started_brought_up_to_date_and_removed(machine: Machine) -> None:
    status, said = machine.install()
    assert (status, machine.is_active(UNIT)) == (0, False), said  # it has no model yet
    assert "next: copy bundles" in said
    status, said = machine.install("--bundles", "/srv/starter")
    assert (status, machine.is_active(UNIT), machine.version) == (0, True, "1"), said
    machine.system.put("/etc/edgeslm/hall.yaml", "# another node\n")
    machine.system.call("systemctl", "start", INSTANCE)
    machine.put_version(2)
    status, said = machine.install()
    assert (status, machine.is_active(UNIT), machine.is_active(INSTANCE)) == (0, True, True), said
    assert machine.system.words.count("version 2") == 2, "both nodes run what is new"
    assert machine.install("--purge")[0] == 0
    assert not machine.is_active(UNIT) and not machine.is_active(INSTANCE)
    assert machine.system.run("id", "edgeslm").returncode != 0


def test_a_version_that_does_not_come_up_is_undone_and_the_old_one_runs(machine: Machine) -> None:
    assert machine.install("--bundles", "/srv/starter")[0] == 0
    machine.put_version(-1)
    status, said = machine.install()
    assert status == 1 and "undoing" in said and f"{UNIT} doesn't come up" in said
    assert machine.is_active(UNIT) and machine.version == "1"
    machine.put_version(3)
    assert machine.install()[0] == 0
    assert machine.is_active(UNIT) and machine.version == "3"
