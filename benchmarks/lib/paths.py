"""Folders of the checkout that benchmarks read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LIB: Final = Path(__file__).resolve().parent
DATA: Final = LIB.parent / "data"
ROOT: Final = LIB.parent.parent
STARTER: Final = ROOT / ".edgeslm/starter"
"""Bundles that ``scripts/setup`` makes."""
