"""Read by an emulated Python as it starts: without binfmt_misc it has to start the children too."""

import os
import sys

sys.executable = os.environ["EDGESLM_EMULATED_PYTHON"]
