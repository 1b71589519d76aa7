"""Entry point of ``python -m edgeslm_export``, the same as the command ``edgeslm-export``."""

from __future__ import annotations

import sys

from edgeslm_export.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
