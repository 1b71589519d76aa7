"""Protocol versions: adjacent versions are compatible.

A reader ignores unknown fields of a newer version. Versions that differ by two or more may use the same names
with other meanings, so they are refused. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeslm import __version__
from edgeslm.errors import InvalidRequest

PROTOCOL_VERSION: Final = 1
TOLERATED: Final = 1
"""Largest difference between compatible protocol versions."""


def is_spoken(protocol: int) -> bool:
    """Whether the protocol version ``protocol`` is compatible with ``PROTOCOL_VERSION``."""
    return abs(protocol - PROTOCOL_VERSION) <= TOLERATED


def why_not_spoken(who: str, info: Mapping[str, Any]) -> str | None:
    """Says, in a sentence, why the protocol version in a node's ``info`` is incompatible; None if the version
    is compatible or unknown."""
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
    """Whether a request with this ``protocol`` may have fields unknown to this version.

    :raises InvalidRequest: the value isn't a protocol version, or the version is incompatible.
    """
    if not isinstance(protocol, int) or isinstance(protocol, bool):
        raise InvalidRequest('"protocol" must be a whole number, the version of the protocol.')
    if not is_spoken(protocol):
        raise InvalidRequest(
            f"The request is of protocol {protocol} and this node speaks {PROTOCOL_VERSION}, which is too "
            "far apart; update the older of the two."
        )
    return protocol > PROTOCOL_VERSION
