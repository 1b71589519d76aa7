"""senders.py: shares of the queue and of tokens."""

from __future__ import annotations

import pytest

from edgeslm.errors import Busy
from edgeslm.serving import quotas as module
from edgeslm.serving.quotas import ClientQuotas
from tests.support.fakes import FakeClock

pytestmark = pytest.mark.usefixtures("monotonic")


def admitted(quotas: ClientQuotas, sender: str, times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            quotas.admit(sender, lambda: 1.5)
            count += 1
        except Busy:
            pass
    return count


def test_a_lone_sender_may_have_the_whole_queue(clock: FakeClock) -> None:
    assert admitted(ClientQuotas(2), "flood", 10) == 10


def test_the_counts_of_others_cost_one_minute_at_most(clock: FakeClock) -> None:
    quotas = ClientQuotas(9, tokens_per_min=60)
    quotas.charge("s", {"prompt_tokens": 10**9})
    assert admitted(quotas, "s", 1) == 0
    clock.now += 62
    assert admitted(quotas, "s", 1) == 1


def test_a_sender_has_its_share_while_others_ask(clock: FakeClock) -> None:
    quotas = ClientQuotas(2)
    quotas.admit("other", lambda: 0.0)
    assert admitted(quotas, "flood", 10) == 2
    with pytest.raises(Busy, match="2 are its share") as refused:
        quotas.admit("flood", lambda: 1.5)
    assert refused.value.retry_after_ms == 1500
    quotas.settle("flood", {})
    assert admitted(quotas, "flood", 10) == 1
    quotas.settle("other", {})
    clock.now += module.OTHERS_S + 1
    assert admitted(quotas, "flood", 10) == 10, "nobody else has asked for a while"


def test_those_without_a_name_are_held_to_a_share_only_where_one_is_set(clock: FakeClock) -> None:
    """Sensors that name no reply topic hear no refusal: the broker holds them back instead."""
    for share, expected in ((None, 10), (3, 3)):
        quotas = ClientQuotas(2, nameless_queue=share)
        quotas.admit("other", lambda: 0.0)
        assert admitted(quotas, "", 10) == expected


def test_tokens_are_given_back_by_the_minute(clock: FakeClock) -> None:
    quotas = ClientQuotas(10, 60)
    quotas.admit("greedy", lambda: 0.0)
    quotas.settle("greedy", {"prompt_tokens": 50, "completion_tokens": 40})
    with pytest.raises(Busy, match="tokens of this minute") as refused:
        quotas.admit("greedy", lambda: 0.0)
    assert refused.value.retry_after_ms == 31_000
    assert admitted(quotas, "other", 1) == 1
    clock.now += 31
    assert admitted(quotas, "greedy", 1) == 1


def test_made_up_names_take_no_memory() -> None:
    quotas = ClientQuotas(1)
    for number in range(module.MOST_SENDERS + 1):
        quotas.admit(f"sender {number}" * 100, lambda: 0.0)
    assert admitted(quotas, "sender 0" * 100, 1) == 1, "the oldest is forgotten"
    assert admitted(quotas, f"sender {module.MOST_SENDERS}" * 100, 1) == 0
    quotas.settle("one that is forgotten", {"prompt_tokens": 1})
