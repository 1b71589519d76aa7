"""Protocol versions: those that are one apart understand each other.

Whoever reads a document of a newer version ignores what it doesn't know. Two protocol versions apart, names
may mean something else: that is refused, with a sentence. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeslm import __version__
from edgeslm.errors import InvalidRequest

PROTOCOL_VERSION: Final = 1
TOLERATED: Final = 1
"""Protocol versions between two that still understand each other."""


def is_spoken(protocol: int) -> bool:
    """Whether this version understands one that speaks ``protocol``."""
    return abs(protocol - PROTOCOL_VERSION) <= TOLERATED


def why_not_spoken(who: str, info: Mapping[str, Any]) -> str | None:
    """Why one with this ``info`` isn't understood, as a sentence; None if it is, or doesn't say."""
    protocol = info.get("protocol")
    if not isinstance(protocol, int) or isinstance(protocol, bool) or is_spoken(protocol):
        return None
    version = info.get("version")
    theirs = f" (edgeslm {version[:64]})" if isinstance(version, str) and version.isprintable() else ""
    older = "that one" if protocol < PROTOCOL_VERSION else "this one"
    return (
        f"{who[:1].upper()}{who[1:]} speaks protocol {protocol}{theirs} and this is protocol "
        f"{PROTOCOL_VERSION} (edgeslm {__version__}), which is too far apart: update {older}."
    )


def is_newer(protocol: object) -> bool:
    """Whether a request with this ``protocol`` may have fields that mean nothing here.

    :raises InvalidRequest: it is no protocol, or one too far apart.
    """
    if not isinstance(protocol, int) or isinstance(protocol, bool):
        raise InvalidRequest('"protocol" must be a whole number, the version of the protocol.')
    if not is_spoken(protocol):
        raise InvalidRequest(
            f"The request is of protocol {protocol} and this node speaks {PROTOCOL_VERSION}, which is too "
            "far apart; update the older of the two."
        )
    return protocol > PROTOCOL_VERSION
