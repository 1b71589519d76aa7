"""Boards for tests of ``edgeslm doctor``."""

from __future__ import annotations

from tests.support.doctor import *  # noqa: F403
