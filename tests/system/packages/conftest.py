"""What is here needs packages and clean systems, made by ``scripts/test-deb``; other runs leave it out."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "EDGESLM_TEST_DEB" in os.environ else ["test_*.py"]
