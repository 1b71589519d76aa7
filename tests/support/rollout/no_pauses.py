"""Downloads that don't wait before they try again."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that breaks off goes on at once."""
    monkeypatch.setattr("edgeslm.update.downloads.PAUSES_S", (0.0, 0.0))
