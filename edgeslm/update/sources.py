"""Allowed sources: whether ``updates.sources`` permits a bundle's address or path."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from edgeslm.errors import InvalidRequest

SCHEME: Final = "https://"
MQTT: Final = "mqtt"
"""Stands in ``updates.sources`` for archives that arrive over MQTT."""


def check_source(source: str, allowed: tuple[str, ...]) -> None:
    """:raises InvalidRequest: the source is in none of the allowed folders and addresses."""
    for start in allowed:
        if start == MQTT:
            continue
        if start.startswith(SCHEME):
            inside = source.startswith(start.rstrip("/") + "/") and ".." not in unquote(source)
        else:
            inside = "://" not in source and Path(source).resolve().is_relative_to(Path(start).resolve())
        if inside:
            return
    raise InvalidRequest(f"{source[:200]}: not below any of updates.sources of this node's configuration")
