"""What the examples for developers of apps talk to."""

from __future__ import annotations

from tests.support.hall import *  # noqa: F403
