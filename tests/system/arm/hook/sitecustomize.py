"""Imported at the start of an emulated Python: starts its children by the emulator too."""

import os
import sys

sys.executable = os.environ["EDGESLM_EMULATED_PYTHON"]
