from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.dispatcher.queue import DispatchQueue, ForwardedRequest
from edgeslm.messages import Request


def orders(specs: Sequence[tuple[str, int, float | None]]) -> list[ForwardedRequest]:
    loop = asyncio.new_event_loop()
    made = [
        ForwardedRequest(
            Request(task, "x", str(number), "a", priority=priority, expires_at=expires_at),
            b"x",
            b"%16d" % number,
            loop.create_future(),
            give_up_at=1e9,
            number=number,
        )
        for number, (task, priority, expires_at) in enumerate(specs)
    ]
    loop.close()
    return made


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.none() | st.floats(0, 1e6)), max_size=20)
)
def test_each_task_has_a_queue_in_rank(specs: list[tuple[str, int, float | None]]) -> None:
    waiting, made = DispatchQueue(), orders(specs)
    for order in made:
        waiting.add(order)
        waiting.add(order)
    assert len(waiting) == len(made) == len(list(waiting))
    for task in waiting.tasks():
        ranks = [order.rank for order in waiting.of(task)]
        assert ranks == sorted(ranks)
    firsts = [waiting.of(task)[0].rank for task in waiting.tasks()]
    assert firsts == sorted(firsts)
    for order in made:
        waiting.remove(order)
        waiting.remove(order)
        assert order not in waiting
    assert len(waiting) == 0 and waiting.tasks() == []


def test_another_variant_is_another_name() -> None:
    (order,) = orders([("a", 5, None)])
    names = {order.correlation}
    for variant in (1, 2):
        order.variant = variant
        names.add(order.correlation)
    assert len(names) == 3 and all(len(name) == 16 for name in names)
