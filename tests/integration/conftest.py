"""Fixtures for integration tests: real brokers, no real model."""

from __future__ import annotations

from tests.support.brokers import broker as broker
from tests.support.brokers import make_broker as make_broker
