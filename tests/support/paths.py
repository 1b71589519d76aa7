"""Where the checkout is, and what children import from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def python_path(*first: Path | str) -> str:
    """``PYTHONPATH`` for a child: ``first``, then what this process passes on anyway."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*map(str, first), *filter(None, inherited)]))
