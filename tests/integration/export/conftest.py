"""Tiny sources and fake teachers."""

from __future__ import annotations

from tests.support.export.fixtures import *  # noqa: F403
