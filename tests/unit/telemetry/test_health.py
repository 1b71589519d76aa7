from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeslm.errors import InvalidRequest
from edgeslm.messages import ErrorBody, Result
from edgeslm.telemetry.health import WINDOW, Meter, memory_bytes, quantiles, temperature_c
from tests.support.fakes import FakeClock

pytestmark = pytest.mark.usefixtures("monotonic")


def result(total_ms: float = 1.0, tokens: int = 0) -> Result:
    return Result("1", "t", "ok", {}, timings_ms={"total": total_ms}, usage={"prompt_tokens": tokens})


def test_quantiles_by_nearest_rank() -> None:
    assert quantiles([]) == {}
    assert quantiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0}
    assert quantiles([4.0, 1.0, 3.0, 2.0]) == {"p50": 2.0, "p95": 4.0, "p99": 4.0}
    assert quantiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert quantiles(range(1, 1001)) == {"p50": 500, "p95": 950, "p99": 990}


def test_counts_results_by_status_and_code(clock: FakeClock) -> None:
    meter = Meter()
    meter.count(result(10.0))
    meter.count(Result("1", "t", "abstained", {}, timings_ms={"total": 20.0}))
    meter.count(
        Result("1", "t", "error", error=ErrorBody.of(InvalidRequest("no")), timings_ms={"total": 9e9})
    )
    meter.drop("rate")
    figures = meter.figures()
    assert figures["results"] == {"ok": 1, "abstained": 1, "invalid_request": 1}
    assert figures["dropped"] == {"rate": 1}
    assert figures["latency_ms"] == {"p50": 10.0, "p95": 20.0, "p99": 20.0}, "errors have no latency"


def test_answers_a_second_by_task_over_the_last_minute(clock: FakeClock) -> None:
    meter = Meter()
    clock.now += 10
    meter.count(result())
    for _ in range(4):
        meter.count(Result("1", "other", "abstained", {}))
    meter.count(Result("1", "nobody", "error", error=ErrorBody.of(InvalidRequest("no"))))
    assert meter.figures()["answers_per_s"] == {"t": 0.1, "other": 0.4}, "a sender can't make up tasks"
    clock.now += 100
    assert meter.figures()["answers_per_s"] == {}


def test_tokens_a_second_over_the_last_minute(clock: FakeClock) -> None:
    meter = Meter()
    clock.now += 10
    meter.count(result(tokens=100))
    assert meter.figures()["tokens_per_s"] == 10.0, "the node is younger than the window"
    clock.now += 100
    meter.count(result(tokens=600))
    assert meter.figures()["tokens_per_s"] == 10.0, "what is older than a minute doesn't count"
    assert meter.figures()["uptime_s"] == 110


def test_tokens_a_second_of_a_node_with_more_results_than_are_kept(clock: FakeClock) -> None:
    meter = Meter()
    for _ in range(4 * WINDOW):
        clock.now += 0.01
        meter.count(result(tokens=5))
    assert meter.figures()["tokens_per_s"] == pytest.approx(500, rel=0.01)


def test_memory_of_the_daemon_and_its_engines(tmp_path: Path) -> None:
    for pid, words in ((os.getpid(), "9 5 1"), (17, "9 7 1"), (18, "not a number"), (19, "")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "statm").write_text(words)
    page = os.sysconf("SC_PAGE_SIZE")
    pids = {"small": 17, "odd": 18, "empty": 19, "gone": 20}
    assert memory_bytes(pids, tmp_path) == {"daemon": 5 * page, "small": 7 * page}


def test_memory_of_this_process() -> None:
    assert memory_bytes({})["daemon"] > 1_000_000


def test_the_hottest_zone(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, words in enumerate(("41500\n", "57300\n", "broken")):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(words)
    (zone.parent / "thermal_zone3").mkdir()
    assert temperature_c(tmp_path) == 57.3
