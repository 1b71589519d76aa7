"""erasing.py: which messages fit a choice."""

from __future__ import annotations

import pytest

from edgeslm.storage.erasure_filter import UNKNOWN_AGE_S, Choice, id_of


def test_by_age_what_is_older_and_what_nobody_can_date() -> None:
    choice = Choice(older_than_s=60.0)
    assert [choice.fits("x", age) for age in (59.0, 60.0, 61.0, UNKNOWN_AGE_S)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("wanted", "id", "fits"),
    [
        ("42", "42", True),
        ("42", "421", False),
        ("42", None, False),
        ("panel-7-*", "panel-7-9", True),
        ("panel-7-*", "panel-70", False),
        ("A", "a", False),
    ],
)
def test_by_id_whole_or_with_a_star(wanted: str, id: str | None, fits: bool) -> None:
    assert Choice(id=wanted).fits(id, 0.0) is fits


@pytest.mark.parametrize(
    ("payload", "id"),
    [
        (b'{"id": "42"}', "42"),
        (b'{"id": 42}', "42"),
        (b'{"id": true}', None),
        (b"[1]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_id_in_a_payload(payload: bytes, id: str | None) -> None:
    assert id_of(payload) == id
