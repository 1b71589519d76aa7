from __future__ import annotations

import socket

import pytest
from referencing.exceptions import Unresolvable

from edgeslm.config.json_schemas import make_validator


def test_no_schema_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may bring its schema, and could make the node open any address."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(Unresolvable):
        make_validator({"$ref": "http://127.0.0.1:9/x"}).is_valid({})
