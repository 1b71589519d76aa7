from __future__ import annotations

import pytest

from edgeslm.web.hosts import is_own_host


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
