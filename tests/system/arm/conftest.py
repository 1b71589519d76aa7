"""These tests need the emulated userland of ``scripts/test-arm``; other runs skip them."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "EDGESLM_ARM" in os.environ else ["test_*.py"]
