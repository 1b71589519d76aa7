"""How long a synced write takes: measured for real, judged by figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.cli.doctor.disk import judge_writes
from edgeslm.cli.doctor.probes import WRITES, Probes
from tests.support.boards import FakeProbes


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))


def test_this_machine_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    taken = Probes().measure_writes(tmp_path)
    assert 0 < len(taken) <= WRITES and min(taken) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("taken", "level"), [([1.0, 1.0, 400.0], "ok"), ([80.0, 120.0, 900.0], "warn")])
def test_the_usual_write_counts(tmp_path: Path, taken: list[float], level: str) -> None:
    (finding,) = judge_writes(None, FakeProbes(tmp_path, writes_ms=taken))
    assert finding.level == level and f"the slowest of 3 took {max(taken):.0f} ms" in finding.text


def test_a_card_that_takes_no_writes(tmp_path: Path) -> None:
    failed = OSError(5, "Input/output error")
    (finding,) = judge_writes(None, FakeProbes(tmp_path, writes_ms=failed))
    assert finding.level == "bad" and "Input/output error" in finding.text


def test_what_is_not_there_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "not/yet"))
    assert judge_writes(None, Probes()) == []
