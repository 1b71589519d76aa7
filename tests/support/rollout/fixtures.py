"""Fixtures for rollout tests: a server with hawkBit's API, and a node's client for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.update.rollout.hawkbit import Hawkbit
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE
from tests.support.rollout.hawkbits import FakeHawkbit, client, configured, load


@pytest.fixture
def server() -> Iterator[Any]:
    with FakeHawkbit() as server:
        yield server


@pytest.fixture
def configuration(server: Any, broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    return configured(tmp_path, server.url, broker.url)


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#", f"{BASE}/health") as app:
        yield app


@pytest.fixture
def hawkbit(configuration: dict[str, Any], tmp_path: Path) -> Hawkbit:
    """The client of a node that doesn't run."""
    return client(load(tmp_path, configuration))
