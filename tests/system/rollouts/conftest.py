"""A server that speaks hawkBit's API, a node's client of it, and downloads that don't wait."""

from __future__ import annotations

from tests.support.rollout.fixtures import *  # noqa: F403
from tests.support.rollout.no_pauses import *  # noqa: F403
