"""``python -m edgeslm``."""

import sys

from edgeslm.cli.main import main

sys.exit(main())
