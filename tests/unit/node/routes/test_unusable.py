"""Messages that a route can't use are told once an hour, and as an alert."""

from __future__ import annotations

import logging

import pytest

from edgeslm.node.routes.route import Skip
from edgeslm.node.routes.unusable import Unusable


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_of_an_hour_is_logged_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    unusable = Unusable(clock)
    skip = Skip("template", "'text' is undefined")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            unusable.note("notes", skip, "hall/\x1b[2J")
    (line,) = caplog.messages
    assert line.startswith("route notes can't use a message on hall/") and "dropped.template" in line
    assert "\x1b" not in line
    (alert,) = unusable.alerts()
    assert alert.startswith("In the last hour route notes couldn't use 3 messages; the last came on hall/")
    assert (unusable.last("notes") or "").startswith("hall/") and unusable.last("other") is None
    clock.now += 3601
    assert not list(unusable.alerts()) and unusable.last("notes") is None
    with caplog.at_level(logging.WARNING):
        unusable.note("notes", skip, "hall/2")
    assert len(caplog.messages) == 2
    assert "1 message;" in next(iter(unusable.alerts()))


@pytest.mark.parametrize("reason", ["retained", "condition", "rate", "poisoned"])
def test_what_the_user_wants_skipped_isnt_told(reason: str) -> None:
    unusable = Unusable()
    unusable.note("notes", Skip(reason, "as configured"), "a")  # type: ignore[arg-type]
    assert not list(unusable.alerts())
