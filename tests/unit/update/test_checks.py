"""What counts as a right answer of a model that is to take over. The rest is in test_updater.py."""

from __future__ import annotations

from typing import Any

import pytest

from edgeslm.update.checks import is_right


@pytest.mark.parametrize(
    ("result", "wanted", "right"),
    [
        ({"label": "critical", "confidence": 0.4}, "critical", True),
        ({"label": "normal"}, "critical", False),
        ({"fields": {"machine": "M3", "temperature_c": 80}}, {"machine": "M3"}, True),
        ({"fields": {"machine": "M3"}}, {"machine": "M3", "temperature_c": 80}, False),
        ({"text": "Turn the valve, then wait."}, "turn THE valve", True),
        ({"text": "Wait."}, "valve", False),
        ({}, "valve", False),
    ],
)
def test_is_right(result: dict[str, Any], wanted: Any, right: bool) -> None:
    assert is_right(result, wanted) is right
