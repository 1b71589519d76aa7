"""Rewound caches of an exported model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from benchmarks.lib.rewinds import compare
from edgeslm.engine.worker.decoder import Decoder

REQUESTS: Final = int(os.environ.get("EDGESLM_REWINDS", "50"))


def check_rewinds(bundle: Path) -> None:
    """Answers of a decoder that rewinds its caches are those of one that forgets them."""
    reused, fresh = Decoder(bundle, 1), Decoder(bundle, 1)
    try:
        figures = compare(reused, fresh, REQUESTS, seed=1)
    finally:
        reused.close()
        fresh.close()
    print(figures)
    assert figures["written_otherwise"] == 0
    assert figures["largest_difference"] < 1e-5  # AVX-512 sums short pieces in another order
