"""The systemd files of ``firmware-config/systemd``: read and judged by systemd, which need not be running."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

UNITS = ROOT / "firmware-config/systemd"
COMMON = "10-edgeslm.conf"
SINCE_254 = ("RestartSteps", "RestartMaxDelaySec")
"""Keys that older systemds (Debian 12 has 252) tell of and leave alone: they try again every two seconds."""
NODES = ("edgeslm.service", "edgeslm@hall.service", "edgeslm-dispatch.service", "edgeslm-hawkbit.service")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise AssertionError(f"{command[0]} isn't installed; install systemd, or run scripts/setup test")
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SYSTEMD_COLORS": "0"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with nothing but systemd's own units, these, and the programs that they start."""
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system", symlinks=True)
    for name in ("opt/edgeslm/bin/edgeslm", "bin/sh"):
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("node", NODES)
def test_systemd_finds_no_mistake_in_the_units(root: Path, node: str) -> None:
    done = run("systemd-analyze", f"--root={root}", "verify", node)
    found = [line for line in done.stderr.splitlines() if not any(key in line for key in SINCE_254)]
    assert (done.returncode, done.stdout, found) == (0, "", [])


@pytest.mark.parametrize("node", NODES)
def test_systemd_rates_the_exposure_at_1_5_or_less(node: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=15", UNITS / node)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Overall exposure level for {node}: " in done.stdout


def test_both_units_share_one_sandbox_and_start_nothing_without_it(root: Path) -> None:
    link = UNITS / "edgeslm@.service.d" / COMMON
    assert link.is_symlink() and link.resolve() == (UNITS / "edgeslm.service.d" / COMMON).resolve()
    for unit in ("edgeslm.service", "edgeslm@.service"):
        assert "ExecStart=" not in (UNITS / unit).read_text()
    shutil.rmtree(root / "etc/systemd/system/edgeslm.service.d")
    done = run("systemd-analyze", f"--root={root}", "verify", "edgeslm.service")
    assert done.returncode != 0 and "no ExecStart=" in done.stderr


def test_the_dispatcher_has_the_sandbox_of_a_node_and_starts_nothing_without_it(root: Path) -> None:
    link = UNITS / "edgeslm-dispatch.service.d" / COMMON
    assert link.is_symlink() and link.resolve() == (UNITS / "edgeslm.service.d" / COMMON).resolve()
    assert "ExecStart=" not in (UNITS / "edgeslm-dispatch.service").read_text()
    shutil.rmtree(root / "etc/systemd/system/edgeslm-dispatch.service.d")
    done = run("systemd-analyze", f"--root={root}", "verify", "edgeslm-dispatch.service")
    assert done.returncode != 0 and "no ExecStart=" in done.stderr


def test_the_client_of_hawkbit_has_the_sandbox_of_a_node_but_for_the_network() -> None:
    common = (UNITS / "edgeslm.service.d" / COMMON).read_text().partition("# --- Files")[2]
    own = (UNITS / "edgeslm-hawkbit.service").read_text().splitlines()
    wanted = [line for line in common.splitlines() if line and not line.startswith("#")]
    missing = [line for line in wanted if line not in own]
    assert missing and all(line.startswith("IPAddress") for line in missing)
    assert "SocketBindDeny=any" in own


def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    for command, name in (("systemd-sysusers", "edgeslm.sysusers"), ("systemd-tmpfiles", "edgeslm.tmpfiles")):
        create = ["--create"] if command.endswith("tmpfiles") else []
        done = run(command, f"--root={tmp_path}", *create, UNITS / name)
        if os.geteuid() == 0:
            assert done.returncode == 0, done.stderr
    users = {
        line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()
    }
    assert set(users) == {"edgeslm", "edgeslm-hawkbit"}
    assert {user[6] for user in users.values()} == {"/usr/sbin/nologin"}
    modes = {
        "etc/edgeslm": 0o755,
        "etc/edgeslm/credentials": 0o700,
        "var/lib/edgeslm": 0o750,
        "var/lib/edgeslm-hawkbit": 0o750,
    }
    for path, mode in modes.items():
        assert (tmp_path / path).stat().st_mode & 0o777 == mode, path
    if os.geteuid() == 0:
        for name, user in users.items():
            status = (tmp_path / "var/lib" / name).stat()
            assert (status.st_uid, status.st_gid) == (int(user[2]), int(users["edgeslm"][3]))


@pytest.mark.parametrize(
    ("file", "memory"),
    [
        ("edgeslm.service.d/10-edgeslm.conf", "92%"),
        ("edgeslm-hawkbit.service", "256M"),
        ("edgeslm-dispatch.service.d/20-dispatch.conf", "256M"),
    ],
)
def test_each_unit_has_limits_of_memory_and_tasks(file: str, memory: str) -> None:
    lines = (UNITS / file).read_text().splitlines()
    assert f"MemoryMax={memory}" in lines
    assert [line.split("=")[0] for line in lines if line.startswith(("MemoryHigh", "TasksMax"))] == [
        "MemoryHigh",
        "TasksMax",
    ]


def test_the_client_of_hawkbit_can_write_nothing_of_the_node() -> None:
    lines = (UNITS / "edgeslm-hawkbit.service").read_text().splitlines()
    assert "User=edgeslm-hawkbit" in lines and "Group=edgeslm" in lines
    assert [line for line in lines if line.startswith(("StateDirectory", "ReadWritePaths"))] == [
        "ReadWritePaths=/var/lib/edgeslm-hawkbit"
    ]
