"""Erasure filter: selects the messages to erase, by age or by id. Pure."""

from __future__ import annotations

import fnmatch
import json
import math
from dataclasses import dataclass

UNKNOWN_AGE_S = math.inf
"""Age assumed for messages of unknown age, so that they count as old."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Selects messages by their age in seconds or by their id, which may have ``*`` as wildcard.

    Exactly one of the two fields is set."""

    older_than_s: float | None = None
    id: str | None = None

    def fits(self, id: str | None, age_s: float) -> bool:
        if self.older_than_s is not None:
            return age_s > self.older_than_s
        return id is not None and self.id is not None and fnmatch.fnmatchcase(id, self.id)


def id_of(payload: bytes) -> str | None:
    """The ``id`` in the JSON of a request or result; None if there is none."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else None
