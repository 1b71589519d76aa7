"""bus/strict_json.py: what of JSON is refused, and what is mended."""

from __future__ import annotations

from typing import Any

import pytest

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.strict_json import MAX_CONTAINERS, MAX_DEPTH, encode_json, parse_json


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1000, 100_000])
def test_json_that_is_nested_too_deep_is_refused(levels: int) -> None:
    with pytest.raises(InvalidRequest, match="nested deeper than 32 levels"):
        parse_json(nested(levels))
    assert parse_json(nested(MAX_DEPTH)) is not None


def test_too_many_objects_and_lists_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than 10000 objects and lists"):
        parse_json("[" + "[]," * MAX_CONTAINERS + "[]]")
    assert len(parse_json("[" + "[]," * (MAX_CONTAINERS - 2) + "[]]")) == MAX_CONTAINERS - 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "appears twice"),
        ("9" * 1_000_000, "too large"),
        ("1e999", "too large"),
        ("NaN", "isn't a JSON number"),
        ("{", "line 1, column 2"),
    ],
)
def test_what_programs_read_differently_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_json(text)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": float("nan")}, b'{"a": null}'),
        ({"a": "\ud83d"}, '{"a": "\ufffd"}'.encode()),
        ({"a": {"b": [float("inf"), 1.5]}}, b'{"a": {"b": [null, 1.5]}}'),
    ],
)
def test_what_json_lacks_is_mended(value: dict[str, Any], encoded: bytes) -> None:
    assert encode_json(value) == encoded
