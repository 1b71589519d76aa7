"""Report of a benchmark: the machine first, what went wrong, the JSON line last."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any


def print_card(**settings: Any) -> dict[str, Any]:
    """Prints machine, versions and ``settings``, and returns them for the JSON line."""
    card = {
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "edgeslm": version("edgeslm"),
        **settings,
    }
    print("  ".join(f"{key} {value}" for key, value in card.items()) + "\n", flush=True)
    return card


@contextmanager
def work_folder(keep: Path | None, prefix: str) -> Iterator[Path]:
    """A new folder ``keep``, or a temporary one."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        yield Path(folder).resolve()


def print_verdict(card: Mapping[str, Any], figures: Mapping[str, Any], wrong: Sequence[str]) -> int:
    """Prints what is ``wrong`` and the JSON line; returns the exit status."""
    for sentence in wrong:
        print(f"failed: {sentence} (seed {card['seed']})", file=sys.stderr)
    print(json.dumps({**card, **figures, "passed": not wrong}))
    return int(bool(wrong))
