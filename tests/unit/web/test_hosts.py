from __future__ import annotations

import pytest

from edgeslm.web.hosts import is_own_host, is_peer


@pytest.mark.parametrize(
    ("header", "is_own"),
    [
        ("localhost", True),
        ("localhost:8481", True),
        ("127.0.0.1:8481", True),
        ("[::1]:8481", True),
        ("hall.example.org", True),
        ("evil.example.org", False),
        ("user@localhost", False),
        ("localhost/x", False),
        ("localhost:port", False),
        ("", False),
    ],
)
def test_names_of_this_server(header: str, is_own: bool) -> None:
    assert is_own_host(header, {"hall.example.org"}) is is_own


@pytest.mark.parametrize(
    ("address", "networks", "is_known"),
    [
        ("10.1.2.3", [], True),
        ("172.30.32.2", ["172.30.32.2/32"], True),
        ("172.30.33.9", ["10.0.0.1/32", "172.30.32.0/23"], True),
        ("172.30.34.1", ["172.30.32.0/23"], False),
        ("::1", ["172.30.32.0/23"], False),
        ("fd00::1", ["fd00::/8"], True),
        ("", ["0.0.0.0/0"], False),
    ],
)
def test_clients_of_this_server(address: str, networks: list[str], is_known: bool) -> None:
    assert is_peer(address, networks) is is_known
