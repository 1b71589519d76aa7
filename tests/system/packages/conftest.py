"""These tests need the packages and clean systems of ``scripts/test-deb``, or the image of
``scripts/test-image``; other runs skip them."""

from __future__ import annotations

import os

BUILT = {"test_package.py": "EDGESLM_TEST_DEB", "test_image.py": "EDGESLM_TEST_IMAGE"}
collect_ignore_glob = [name for name, variable in BUILT.items() if variable not in os.environ]
