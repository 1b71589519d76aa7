"""How far apart two versions may be: who is understood, who is refused, and with which sentence."""

from __future__ import annotations

from typing import Any

import pytest

from edgeslm import __version__
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.protocol.codec import Rejected, Topics, parse_request
from edgeslm.protocol.delivery import Delivery
from edgeslm.protocol.strict_json import encode_json
from edgeslm.protocol.versions import PROTOCOL_VERSION, is_newer, is_spoken, why_not_spoken


@pytest.mark.parametrize("apart", [-1, 0, 1])
def test_one_protocol_apart_is_understood(apart: int) -> None:
    assert is_spoken(PROTOCOL_VERSION + apart)
    assert why_not_spoken("the node 'hall'", {"protocol": PROTOCOL_VERSION + apart}) is None


@pytest.mark.parametrize("info", [{}, {"protocol": None}, {"protocol": "2"}, {"protocol": True}])
def test_who_does_not_say_is_believed_to_be_of_this_version(info: dict[str, Any]) -> None:
    assert why_not_spoken("the node 'hall'", info) is None


def test_two_apart_is_refused_with_what_to_update() -> None:
    newer = {"protocol": PROTOCOL_VERSION + 2, "version": "9.1.0"}
    assert why_not_spoken("the node 'hall'", newer) == (
        "The node 'hall' speaks protocol 3 (edgeslm 9.1.0) and this is protocol 1 "
        f"(edgeslm {__version__}), which is too far apart: update this one."
    )
    older = why_not_spoken("the pool 'triage'", {"protocol": PROTOCOL_VERSION - 2, "version": "\x1b[2J"})
    assert older is not None
    assert older.startswith("The pool 'triage' speaks protocol -1 and this is")
    assert older.endswith("update that one.")


@pytest.mark.parametrize("protocol", ["1", 1.0, True, None, 3, -1])
def test_no_protocol_that_a_request_can_have(protocol: object) -> None:
    with pytest.raises(InvalidRequest, match="protocol"):
        is_newer(protocol)


def read(**fields: Any) -> Request | Rejected:
    return parse_request(
        Delivery.local(encode_json({"input": "x", **fields})),
        task="triage",
        topics=Topics("hall"),
        allowed_replies=(),
        packet_limit=1000,
    )


def test_fields_of_a_newer_sender_are_ignored_and_misspelt_ones_of_this_version_are_not() -> None:
    assert isinstance(read(protocol=2, colour="red"), Request)
    assert isinstance(read(protocol=1), Request)
    for fields in ({"colour": "red"}, {"protocol": 1, "colour": "red"}):
        refused = read(**fields)
        assert isinstance(refused, Rejected)
        assert "There is no field" in str(refused.error)
    refused = read(protocol=3)
    assert isinstance(refused, Rejected)
    assert "protocol 3 and this node speaks 1" in str(refused.error)
