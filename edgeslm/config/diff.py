"""Configuration diff: changed keys, split into reloadable and restart required. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeslm.config.schema import Config

RELOADABLE: Final = frozenset(
    {"models", "tasks", "knowledge", "routes", "pool", "replies", "signing", "prepare", "log_level"}
    | {"feedback"}
)
"""Keys that a running node can reload; changes of all other keys require a restart."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changed keys, such as ``limits`` or ``tasks.triage``.

    A running node can apply changes of ``reloadable`` keys; it refuses a reload that changes
    ``restart_required`` keys.
    """

    reloadable: tuple[str, ...]
    restart_required: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.reloadable or self.restart_required)


def changes_between(old: Config, new: Config) -> Changes:
    reloadable: list[str] = []
    restart_required: list[str] = []
    for key in Config.model_fields:
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        if key not in RELOADABLE:
            restart_required.append(key)
        elif isinstance(before, dict) and isinstance(after, dict):
            names = [*before, *(name for name in after if name not in before)]
            reloadable += [f"{key}.{name}" for name in names if before.get(name) != after.get(name)]
        else:
            reloadable.append(key)
    return Changes(tuple(reloadable), tuple(restart_required))
