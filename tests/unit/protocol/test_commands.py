"""Commands as they come over the bus."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import InvalidRequest
from edgeslm.messages import ErrorBody
from edgeslm.protocol.commands import MOST_BYTES, Command, encode_answer, parse_command

LONG_ID = b'{"id": "%s"}' % (b"x" * 300)


def test_an_empty_payload_is_a_command_without_arguments() -> None:
    assert parse_command("ping", b" ") == Command("ping", {})


def test_arguments_and_id_are_read() -> None:
    command = parse_command("models/stage", b'{"id": "7", "source": "/srv/new"}', b"c")
    assert command == Command("models/stage", {"source": "/srv/new"}, "7", b"c")


@pytest.mark.parametrize("payload", [b"[]", b"3", b"{", b"\xff", b'{"id": 7}', LONG_ID])
def test_what_is_no_command_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_command("ping", payload)


def test_a_large_one_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="bytes at most"):
        parse_command("ping", b" " * (MOST_BYTES + 1))


@given(st.binary(max_size=200))
def test_nothing_else_is_raised(payload: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_command("ping", payload)


def test_answers() -> None:
    assert json.loads(encode_answer("ping", "7", result={"version": "1"})) == {
        "id": "7",
        "command": "ping",
        "status": "ok",
        "result": {"version": "1"},
    }
    error = json.loads(encode_answer("ping", None, error=ErrorBody("busy", "try again")))
    assert error == {"command": "ping", "status": "error", "error": {"code": "busy", "message": "try again"}}
