"""Names in a configuration file, and faults of unknown ones."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.config.yaml_source import Path

Fault = tuple[Path, str]
"""Where a configuration is wrong, and what to change."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all models, tasks and collections in the file, including invalid models, tasks and
    collections."""

    models: frozenset[str]
    tasks: frozenset[str]
    knowledge: frozenset[str] = frozenset()
    unsound: frozenset[str] = frozenset()
    """Names of collections whose section in the file is invalid. The validator may not know which models such
    a collection uses."""


def near(name: str, known: frozenset[str]) -> str:
    """The known name that was probably meant, or all of them, as the end of a sentence."""
    import difflib  # memory of the parent process

    found = difflib.get_close_matches(name, sorted(known), 1)
    if found:
        return f"did you mean {found[0]}?"
    return f"there is {', '.join(sorted(known)[:10])}" if known else "there is none in this file"
