"""These tests need the packages and clean systems of ``scripts/test-deb``; other runs skip them."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "EDGESLM_TEST_DEB" in os.environ else ["test_*.py"]
