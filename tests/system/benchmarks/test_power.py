"""benchmarks/lib/power.py: what is counted of a node, and a real node for each power."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest

from edgeslm.engine.worker.waiting import WAITING
from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def power() -> ModuleType:
    return load_scripts("power", "load", "processes", "served", "cards", "machine")["power"]


def test_the_processor_s_time_is_a_mean_and_the_rest_are_medians(power: ModuleType) -> None:
    """The kernel counts in hundredths of a second, so that most turns are off by half of one."""
    seen = power.Seen([30.0, 31.0, 90.0], [0.0, 0.06], [0.01, 0.03], [100.0, 90.0, 10.0], 0.125)
    assert seen.figures() == {
        "label_ms": 31.0,
        "label_cpu_s": 0.03,
        "tokens_per_s": 90.0,
        "token_cpu_s": 0.02,
        "rest_percent": 0.12,
    }


def test_nodes_take_turns_and_rest(
    power: ModuleType, starter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(
        bundle=starter / "smollm2-135m-int4", rounds=1, seconds=0.1, threads=1, json=False
    )
    found = power.measure(options, print)
    assert [row["power"] for row in found["powers"]] == list(WAITING)
    assert all(row["label_ms"] > 0 and row["tokens_per_s"] > 0 for row in found["powers"])
    assert "tokens/s" in capsys.readouterr().out
