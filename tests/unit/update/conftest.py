"""Downloads that don't wait."""

from __future__ import annotations

from tests.support.rollout.no_pauses import *  # noqa: F403
