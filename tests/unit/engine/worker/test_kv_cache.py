"""Which cache serves which prompt, with generators that only note where they are rewound to."""

from __future__ import annotations

from typing import Any

import pytest

from edgeslm.engine.calls import Guide
from edgeslm.engine.worker.kv_cache import WORTH_SHARING, KvSlot, SlotKey, SlotPool, rewind_limit, rounded

PLAIN = SlotKey()
HEAD = list(range(WORTH_SHARING))


class Generator:
    def __init__(self) -> None:
        self.rewound: list[int] = []

    def rewind_to(self, length: int) -> None:
        self.rewound.append(length)


def slot(*tokens: int, key: SlotKey = PLAIN, max_length: int = 256, new: int = 0) -> KvSlot:
    """:param new: how many of the tokens are not of the prompt."""
    return KvSlot(Generator(), key, max_length, list(tokens), len(tokens) - new)


def slots(*held: KvSlot, **options: int) -> SlotPool:
    pool = SlotPool(1000, 4096, **options)
    for one in held:
        pool.put(one)
    return pool


def test_takes_what_shares_most_and_gives_it_to_nobody_else() -> None:
    less, most = slot(*HEAD, 7, 8, 9), slot(*HEAD, 7, 9, 9)
    pool = slots(less, most)
    asked = [*HEAD, 7, 9, 5, 5]
    assert pool.take(asked, 200, PLAIN) == (len(HEAD) + 2, most)
    assert most.generator.rewound == [len(HEAD) + 2]
    assert pool.take(asked, 200, PLAIN) == (len(HEAD) + 1, less)
    assert pool.take(asked, 200, PLAIN) == (0, None)


@pytest.mark.parametrize(
    ("held", "key", "length"),
    [
        (slot(*HEAD[:-1], 99, 99), PLAIN, 100),
        (slot(*HEAD, 9, 9), SlotKey(guide=Guide("regex", "a")), 100),
        (slot(*HEAD, 9, 9), SlotKey(drafts=5), 100),
        (slot(*HEAD, 9, 9), PLAIN, 257),
        (slot(*HEAD, 9, 9, new=3), PLAIN, 100),
        (slot(*HEAD, *range(5000), max_length=8192), PLAIN, 100),
    ],
    ids=["too little", "another grammar", "other drafts", "too small", "written", "past the window"],
)
def test_what_serves_no_other_prompt(held: KvSlot, key: SlotKey, length: int) -> None:
    assert slots(held).take([*HEAD, 5, 5], length, key) == (0, None)


def test_two_tokens_are_left_to_append() -> None:
    held = slot(*HEAD, 1, 2, 3)
    assert slots(held).take([*HEAD, 1, 2, 3], 100, PLAIN) == (len(HEAD) + 1, held)


def test_what_never_served_twice_goes_first() -> None:
    task, *others = slot(*HEAD, 1, 1), slot(50, 51), slot(60, 61)
    pool = slots(task, most=3)
    pool.put(*filter(None, [pool.take([*HEAD, 2, 2], 10, PLAIN)[1]]))
    for other in others:
        pool.make_room(256)
        pool.put(other)
    pool.make_room(256)
    assert len(pool) == 2
    assert pool.take([*HEAD, 3, 3], 10, PLAIN)[1] is task


@pytest.mark.parametrize(("options", "left"), [({"budget_bytes": 600_000}, 1), ({"most": 3}, 2), ({}, 5)])
def test_room_is_bounded_by_bytes_and_by_number(options: dict[str, int], left: int) -> None:
    pool = slots(*[slot(number) for number in range(5)], **options)
    pool.make_room(256)
    assert (len(pool), pool.tokens) == (left, left * 256)
    pool.clear()
    assert len(pool) == 0


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"type": "llama"}, 8192),
        ({"type": "gemma2", "decoder": {"sliding_window": {"window_size": 512}}}, 512),
        ({"type": "phi3"}, 4096),
        ({"type": "llama", "decoder": {"sliding_window": None}}, 8192),
    ],
)
def test_how_far_a_cache_can_be_rewound(settings: dict[str, Any], limit: int) -> None:
    assert rewind_limit(settings, 8192) == limit


def test_lengths_are_rounded_up_to_the_context() -> None:
    assert [rounded(length, 1000) for length in (1, 256, 257, 900)] == [256, 256, 512, 1000]
