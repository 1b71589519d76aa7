"""Update outcomes: what came of the last update of each model, in a small file for those who asked.

The node writes it when an update is over; others on the same device read it. Which bundle a model is stands
in the store, not here: this has the reason.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeslm.storage.atomic_json import write_record
from edgeslm.storage.file_ownership import is_ours

log = logging.getLogger("edgeslm.update")

State = Literal["IN_PROGRESS", "ON_TRIAL", "SUCCEEDED", "REJECTED", "FAILED"]
"""As jobs of device fleets name them; rejected is what never served, failed what was taken back."""


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """How far an update of a model has come; ``why`` it went wrong, in a sentence."""

    state: State
    step: str
    bundle: str
    digest: str
    why: str = ""

    def figures(self) -> dict[str, str]:
        found = {"state": self.state, "step": self.step, "bundle": self.bundle, "digest": self.digest}
        return {**found, **({"why": self.why} if self.why else {})}


class UpdateOutcomes:
    """:param folder: the store's."""

    def __init__(self, folder: Path, node: str) -> None:
        self._file = folder / f"verdicts-{node}.json"

    def write(self, model: str, figures: Mapping[str, str]) -> None:
        """A full disk costs the reason and nothing else."""
        try:
            write_record(self._file, {**self._read(), model: dict(figures)})
        except OSError as error:
            log.warning("%s can't be written: %s", self._file, error)

    def all(self) -> dict[str, Any]:
        """By model: what was written last."""
        return self._read()

    def why(self, model: str, digest: str) -> str:
        """Why the model is not the bundle, in words; empty if nobody said so."""
        said = self._read().get(model)
        if not isinstance(said, dict) or said.get("digest") not in (digest, ""):
            return ""  # without a digest: what a start did
        return str(said.get("why", ""))

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, RecursionError), self._file.open("rb") as stream:
            if is_ours(os.fstat(stream.fileno())):
                found = json.loads(stream.read(1_000_000))
                return found if isinstance(found, dict) else {}
        return {}
