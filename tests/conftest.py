"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers import Mosquitto


@pytest.fixture
def make_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    """Starts real brokers: ``make_broker(lines, anonymous=True, folder=None)``; they end with the test."""
    brokers: list[Mosquitto] = []

    def make(lines: str = "", *, anonymous: bool = True, folder: Path | None = None) -> Mosquitto:
        broker = Mosquitto(folder or tmp_path_factory.mktemp("broker"), lines, anonymous=anonymous)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    """A real broker without any limit that would get in the way."""
    return make_broker()
