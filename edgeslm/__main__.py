"""``python -m edgeslm``."""

import sys

from edgeslm.cli import main

sys.exit(main())
