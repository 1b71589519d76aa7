from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeslm.web.connections import MOST_OF_ADDRESS, MOST_STRANGERS, _origin_of, find_surplus


def connections(*origins: str, is_stranger: bool = True) -> list[Any]:
    return [
        SimpleNamespace(origin=origin, since=float(number), is_stranger=is_stranger)
        for number, origin in enumerate(origins)
    ]


def test_few_strangers_may_stay() -> None:
    assert find_surplus([]) is None
    assert find_surplus(connections(*["a"] * MOST_OF_ADDRESS)) is None
    assert find_surplus(connections(*map(str, range(MOST_STRANGERS)))) is None
    assert find_surplus(connections(*["a"] * 1000, is_stranger=False)) is None


def test_the_oldest_of_the_busiest_address_goes() -> None:
    many = connections("b", *["a"] * (MOST_OF_ADDRESS + 1))
    assert find_surplus(many) is many[1]
    third = MOST_STRANGERS // 3
    crowd = connections("b", *["c"] * third, *["a"] * (third + 2), *["d"] * third)
    assert find_surplus(crowd) is crowd[third + 1]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("", "", True),
    ],
)
def test_an_ipv6_network_is_one_address(one: str, other: str, is_same: bool) -> None:
    assert (_origin_of(one) == _origin_of(other)) is is_same
