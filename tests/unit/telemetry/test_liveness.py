from __future__ import annotations

from typing import Any

import pytest

from edgeslm.telemetry.liveness import MARGIN_S, NETWORK_SILENT_S, Liveness
from tests.support.fakes import FakeClock

STEP_S = 140.0
LIMIT_S = STEP_S + MARGIN_S


pytestmark = pytest.mark.usefixtures("monotonic")


def look(liveness: Liveness, **changes: Any) -> str | None:
    values: dict[str, Any] = {
        "network_alive": True,
        "network_silent_s": 0.1,
        "unfinished": 0,
        "moved_at": 0.0,
    }
    return liveness.fault(**{**values, **changes})


def test_an_idle_node_is_alive_for_ever(clock: FakeClock) -> None:
    liveness = Liveness(longest_step_s=STEP_S)
    for _ in range(5):
        clock.now += 10 * LIMIT_S
        assert look(liveness) is None


def test_a_request_that_comes_after_hours_has_its_whole_time(clock: FakeClock) -> None:
    liveness = Liveness(longest_step_s=STEP_S)
    clock.now += 7200
    assert look(liveness) is None
    clock.now += LIMIT_S
    assert look(liveness, unfinished=1) is None
    clock.now += 1
    assert look(liveness, unfinished=1) is not None


def test_work_that_moves_is_alive_and_work_that_does_not_is_not(clock: FakeClock) -> None:
    liveness = Liveness(longest_step_s=STEP_S)
    for _ in range(5):
        clock.now += STEP_S
        moved_at = clock.now
        clock.now += MARGIN_S - 1
        assert look(liveness, unfinished=3, moved_at=moved_at) is None
    clock.now += STEP_S + 2
    sentence = look(liveness, unfinished=3, moved_at=moved_at)
    assert sentence is not None and sentence.startswith("None of 3 unfinished requests")
    assert look(liveness, unfinished=3, moved_at=clock.now) is None


def test_the_network_thread_must_live_and_go_round(clock: FakeClock) -> None:
    liveness = Liveness(longest_step_s=STEP_S)
    assert look(liveness, network_silent_s=NETWORK_SILENT_S) is None
    assert "stuck" in str(look(liveness, network_silent_s=NETWORK_SILENT_S + 1))
    assert "ended" in str(look(liveness, network_alive=False))
