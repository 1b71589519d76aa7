from __future__ import annotations

import pytest

from edgeslm.telemetry.alerts import TOLD_S, Alerts


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("edgeslm.telemetry.alerts.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def see(alerts: Alerts, *counts: int) -> list[int]:
    return [alerts.see_broker_dropped(str(count).encode()) for count in counts]


def test_all_is_well(clock: Clock) -> None:
    alerts = Alerts()
    assert see(alerts, 0, 0) == [0, 0]
    assert alerts.sentences(standing=[None, ""]) == []
    assert alerts.broker_dropped == 0


def test_what_the_broker_drops_is_counted_and_told_for_an_hour(clock: Clock) -> None:
    alerts = Alerts()
    assert see(alerts, 0, 500, 500) == [0, 500, 0]
    clock.now += TOLD_S / 2
    assert see(alerts, 530) == [30]
    (sentence,) = alerts.sentences()
    assert "dropped 530 messages" in sentence and "max_queued_messages" in sentence
    clock.now += TOLD_S / 2 + 1
    (sentence,) = alerts.sentences()
    assert "dropped 30 messages" in sentence
    clock.now += TOLD_S
    assert alerts.sentences() == []
    assert alerts.broker_dropped == 530


def test_a_count_that_falls_is_that_of_a_new_broker(clock: Clock) -> None:
    alerts = Alerts()
    assert see(alerts, 100, 120, 0, 7, 3) == [0, 20, 0, 7, 3]
    assert alerts.broker_dropped == 30


def test_what_was_dropped_before_is_told_and_not_counted(clock: Clock) -> None:
    """It may have been requests for a node that was away."""
    alerts = Alerts()
    see(alerts, 500)
    assert alerts.broker_dropped == 0
    (sentence,) = alerts.sentences()
    assert "Before this node was there" in sentence and "500" in sentence
    clock.now += TOLD_S
    assert alerts.sentences() == []


@pytest.mark.parametrize("payload", [b"", b"-1", b"1.5", b"many", b"9" * 5000, "٣".encode(), b"\xff", b"1 2"])
def test_what_is_no_count_is_ignored(payload: bytes, clock: Clock) -> None:
    alerts = Alerts()
    see(alerts, 5)
    assert alerts.see_broker_dropped(payload) == 0
    assert see(alerts, 6) == [1]


def test_a_lost_session_is_told_for_an_hour(clock: Clock) -> None:
    alerts = Alerts()
    assert alerts.sentences(session_lost=0) == []
    (sentence,) = alerts.sentences(session_lost=2)
    assert "forgot the node's session 2 times" in sentence
    clock.now += TOLD_S + 1
    assert alerts.sentences(session_lost=2) == []


def test_what_others_say_is_told_as_long_as_they_say_it(clock: Clock) -> None:
    alerts = Alerts()
    see(alerts, 0, 1)
    said = alerts.sentences(standing=["The disk is full.", None, "The broker keeps no retained messages."])
    assert said[:2] == ["The disk is full.", "The broker keeps no retained messages."]
    assert len(said) == 3
