"""Messages that every web process sends to the node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listening:
    """The web server listens at ``url``."""

    url: str
