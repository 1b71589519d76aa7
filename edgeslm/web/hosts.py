"""Host names and clients of a web server. Pure.

Against DNS rebinding, a name in the ``Host`` header must be one of the server's names; IP addresses can't be
rebound.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit


def is_own_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header names this server: ``localhost``, an IP address, or one of ``names``."""
    try:
        parts = urlsplit(f"//{header}")
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.netloc != header or "@" in header or parts.path or parts.query:
        return False
    return host == "localhost" or host in names or _is_address(host)


def is_peer(address: str, networks: Collection[str]) -> bool:
    """Whether a client's address is in one of ``networks``; true if there are none."""
    try:
        return not networks or any(ip_address(address) in ip_network(one) for one in networks)
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
