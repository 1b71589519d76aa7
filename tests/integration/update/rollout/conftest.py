"""A server that speaks hawkBit's API, and a node's client of it."""

from __future__ import annotations

from tests.support.rollout.fixtures import *  # noqa: F403
