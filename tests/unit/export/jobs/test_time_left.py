"""The estimate of the time that is left in a job of several steps."""

from __future__ import annotations

import pytest
from edgeslm_export.jobs.time_left import TimeLeft
from hypothesis import given
from hypothesis import strategies as st

SHARES = {"study": 1.0, "quantize": 3.0, "build": 1.0}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said() -> list[str]:
    return []


def _job(said: list[str]) -> tuple[TimeLeft, Clock]:
    clock = Clock()
    return TimeLeft(lambda done, total, what: said.append(what), SHARES, clock=clock), clock


def test_other_progress_does_not_count() -> None:
    said: list[str] = []
    clock = Clock()
    counts = "training".__eq__
    job = TimeLeft(lambda done, total, what: said.append(what), SHARES, counts=counts, clock=clock)
    job.begin("study")
    job(0, 1, "training")
    clock.now += 60
    job(1, 2, "training")
    job(0, 10, "exporting")
    assert said[1:] == ["training, about 9 min left", "exporting, about 9 min left"]


def test_the_time_left_follows_from_the_share_that_is_done(said: list[str]) -> None:
    job, clock = _job(said)
    job.begin("study")
    job(0, 1, "reading")
    job.begin("quantize")
    clock.now += 120
    job(1, 3, "quantizing")  # 0.2 and a third of 0.6 are done
    clock.now += 120
    job(2, 3, "quantizing")
    job.begin("build")
    clock.now += 30
    job(1, 2, "measuring")
    assert said == [
        "reading",
        "quantizing, about 3 min left",
        "quantizing, about 3 min left",
        "measuring, about 30 s left",
    ]


def test_the_first_seconds_have_no_estimate(said: list[str]) -> None:
    job, clock = _job(said)
    job.begin("study")
    clock.now += 5
    job(1, 2, "reading")
    clock.now += 600
    job(0, 2, "reading")  # nothing is done: no estimate
    assert said == ["reading", "reading"]


def test_a_step_may_start_again(said: list[str]) -> None:
    job, clock = _job(said)
    job.begin("study")
    job(0, 1, "reading")
    job.begin("build")
    clock.now += 80
    job(0, 1, "building")
    job.begin("quantize")
    job(0, 1, "quantizing")
    assert said == ["reading", "building, about 20 s left", "quantizing, about 5 min left"]


def test_an_expected_time_steadies_the_first_estimates() -> None:
    said: list[str] = []
    clock = Clock()
    job = TimeLeft(lambda done, total, what: said.append(what), SHARES, expected_s=600.0, clock=clock)
    job.begin("study")
    job(0, 1, "reading")
    clock.now += 60
    job(1, 10, "reading")  # a fiftieth of the whole, which alone says 50 minutes
    clock.now += 240
    job.begin("build")
    job(1, 2, "building")
    assert said[1:] == ["reading, about 16 min left", "building, about 40 s left"]


@given(st.sampled_from(list(SHARES)), st.integers(0, 10), st.integers(0, 10), st.floats(0, 1e6))
def test_any_progress_is_passed_on(step: str, done: int, total: int, elapsed: float) -> None:
    said: list[str] = []
    job, clock = _job(said)
    job.begin(step)
    clock.now += elapsed
    job(done, total, "working")
    assert said[0].startswith("working")


def test_what_an_interrupted_job_had_done_takes_no_time_again(said: list[str]) -> None:
    job, clock = _job(said)
    job.begin("quantize")
    job(1, 2, "quantizing")  # half of the whole was done before
    clock.now += 60
    job(3, 4, "quantizing")
    assert said == ["quantizing", "quantizing, about 2 min left"]
