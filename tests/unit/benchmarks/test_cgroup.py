"""Control groups made by hand, in a folder instead of the kernel's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.lib import cgroup
from benchmarks.lib.cgroup import ControlGroup, control_group


def test_limits_and_figures_of_version_1(tmp_path: Path) -> None:
    memory, cpu = tmp_path / "memory", tmp_path / "cpu"
    for place in (memory, cpu):
        place.mkdir()
    group = ControlGroup(memory, cpu)
    group.limit(3_400_000_000, 0.3)
    assert (memory / "memory.limit_in_bytes").read_text() == "3400000000"
    assert (memory / "memory.memsw.limit_in_bytes").read_text() == "3400000000", "no swap"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "30000"
    (memory / "memory.max_usage_in_bytes").write_text("7\n")
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (cpu / "cpu.stat").write_text("nr_periods 9\nthrottled_time 2500000000\n")
    assert (group.peak_bytes, group.kills, group.throttled_s) == (7, 3, 2.5)


def test_limits_and_figures_of_version_2(tmp_path: Path) -> None:
    group = ControlGroup(tmp_path, tmp_path)
    group.limit(1000, 1.5)
    assert (tmp_path / "memory.max").read_text() == "1000"
    assert (tmp_path / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "cpu.max").read_text() == "150000 100000"
    (tmp_path / "memory.peak").write_text("8\n")
    (tmp_path / "memory.events").write_text("oom 5\noom_kill 4\n")
    (tmp_path / "cpu.stat").write_text("throttled_usec 500000\n")
    assert (group.peak_bytes, group.kills, group.throttled_s) == (8, 4, 0.5)


def test_a_program_enters_the_group_before_it_runs(tmp_path: Path) -> None:
    group = ControlGroup(tmp_path, tmp_path)
    done = subprocess.run(
        group.command(["cat", str(tmp_path / "cgroup.procs")]), capture_output=True, check=True
    )
    assert done.stdout.strip().isdigit()


def test_a_group_that_can_not_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "TOP", tmp_path / "none")
    with pytest.raises(RuntimeError, match="no control group can be made here"), control_group(1000):
        pass
