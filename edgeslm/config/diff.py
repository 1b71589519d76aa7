"""Configuration diff: what differs, and what of it is reloadable or needs a restart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeslm.config.schema import Config

TAKEN_UP: Final = frozenset(
    {"models", "tasks", "knowledge", "routes", "pool", "replies", "signing", "prepare", "log_level"}
)
"""Keys whose changes a running node takes up; those of all others would make it another node."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys, such as ``limits`` or ``tasks.triage``, that are other than before.

    ``taken_up`` are those that a running node can follow, ``held_back`` those that wait for its next start.
    """

    taken_up: tuple[str, ...]
    held_back: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.taken_up or self.held_back)


def changes_between(old: Config, new: Config) -> Changes:
    taken_up: list[str] = []
    held_back: list[str] = []
    for key in Config.model_fields:
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        if key not in TAKEN_UP:
            held_back.append(key)
        elif isinstance(before, dict) and isinstance(after, dict):
            names = [*before, *(name for name in after if name not in before)]
            taken_up += [f"{key}.{name}" for name in names if before.get(name) != after.get(name)]
        else:
            taken_up.append(key)
    return Changes(tuple(taken_up), tuple(held_back))
