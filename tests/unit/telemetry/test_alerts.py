from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.telemetry.alerts import RECENT_S, TOLD_S, BrokerLosses, CpuQuota
from tests.support.boards import put
from tests.support.fakes import FakeClock

pytestmark = pytest.mark.usefixtures("monotonic")


def see(losses: BrokerLosses, *counts: int) -> list[int]:
    return [losses.see_broker_dropped(str(count).encode()) for count in counts]


def test_all_is_well(clock: FakeClock) -> None:
    losses = BrokerLosses()
    assert see(losses, 0, 0) == [0, 0]
    assert losses.alerts == []
    assert losses.broker_dropped == 0


def test_what_the_broker_drops_is_counted_and_told_for_an_hour(clock: FakeClock) -> None:
    losses = BrokerLosses()
    assert see(losses, 0, 500, 500) == [0, 500, 0]
    clock.now += TOLD_S / 2
    assert see(losses, 530) == [30]
    (sentence,) = losses.alerts
    assert "dropped 530 messages" in sentence and "max_queued_messages" in sentence
    clock.now += TOLD_S / 2 + 1
    (sentence,) = losses.alerts
    assert "dropped 30 messages" in sentence
    clock.now += TOLD_S
    assert losses.alerts == []
    assert losses.broker_dropped == 530


def test_a_count_that_falls_is_that_of_a_new_broker(clock: FakeClock) -> None:
    losses = BrokerLosses()
    assert see(losses, 100, 120, 0, 7, 3) == [0, 20, 0, 7, 3]
    assert losses.broker_dropped == 30


def test_what_was_dropped_before_is_told_and_not_counted(clock: FakeClock) -> None:
    """It may have been requests for a node that was away."""
    losses = BrokerLosses()
    see(losses, 500)
    assert losses.broker_dropped == 0
    (sentence,) = losses.alerts
    assert "Before this node was there" in sentence and "500" in sentence
    clock.now += TOLD_S
    assert losses.alerts == []


@pytest.mark.parametrize("payload", [b"", b"-1", b"1.5", b"many", b"9" * 5000, "٣".encode(), b"\xff", b"1 2"])
def test_what_is_no_count_is_ignored(payload: bytes, clock: FakeClock) -> None:
    losses = BrokerLosses()
    see(losses, 5)
    assert losses.see_broker_dropped(payload) == 0
    assert see(losses, 6) == [1]


def test_a_lost_session_is_told_for_an_hour(clock: FakeClock) -> None:
    losses = BrokerLosses()
    assert losses.alerts == []
    losses.lose_session()
    losses.lose_session()
    (sentence,) = losses.alerts
    assert "forgot the node's session 2 times" in sentence
    clock.now += TOLD_S + 1
    assert losses.alerts == []
    assert losses.health() == {"broker_dropped": 0, "session_lost": 2}


def test_a_cpu_quota_that_holds_the_node_up_is_told_while_it_does(tmp_path: Path, clock: FakeClock) -> None:
    quota = CpuQuota(tmp_path)

    def see(periods: int, throttled: int) -> list[str]:
        put(tmp_path, "sys/fs/cgroup/node/cpu.stat", f"nr_periods {periods}\nnr_throttled {throttled}\n")
        assert quota.health() == {}
        return list(quota.alerts)

    assert see(0, 0) == [], "no quota"
    put(tmp_path, "proc/self/cgroup", "0::/node\n")
    put(tmp_path, "sys/fs/cgroup/node/cpu.max", "30000 100000\n")
    assert see(1000, 900) == [], "before the node was there"
    assert see(1300, 920) == []
    (told,) = see(1600, 1150)
    assert "in 42% of its periods: it allows 0.3 cores" in told
    clock.now += RECENT_S + 1
    assert see(1900, 1150) == []
