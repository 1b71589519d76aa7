"""Flow control: no more in flight than the broker takes, and the one found that it hangs up for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.mqtt.flow_control import FlowControl

MESSAGES = st.lists(st.sampled_from(["good", "good", "good", "bad"]), max_size=20)


def test_what_is_being_published_takes_room() -> None:
    flow: FlowControl[str] = FlowControl()
    flow.receive_maximum = 2
    flow.reserved += 1
    flow.sent(1, "a")
    assert (len(flow), flow.room) == (2, 0)
    assert flow.clear() == ["a"]
    assert flow.room == 2


@given(MESSAGES, st.integers(1, 8))
def test_a_broker_that_hangs_up_costs_no_innocent_message(messages: list[str], maximum: int) -> None:
    """Whatever it takes at a time, and however many it hangs up for."""
    flow: FlowControl[tuple[int, str]] = FlowControl()
    flow.receive_maximum = maximum
    waiting, taken, given_up = list(enumerate(messages)), [], []
    while waiting or len(flow):
        while waiting and flow.room:
            message = waiting.pop(0)
            flow.sent(message[0] + 1, message)
        assert 1 <= len(flow) <= maximum
        in_flight = [flow.get(number + 1) for number in range(len(messages)) if number + 1 in flow]
        if any(one is not None and one[1] == "bad" for one in in_flight):
            guilty = flow.hung_up()
            waiting = [one for one in flow.clear() if one not in guilty] + waiting
            given_up += guilty
            continue
        for one in in_flight:
            assert one is not None
            taken.append(flow.acknowledged(one[0] + 1))
        if not waiting:
            flow.passed()
    assert taken == [(number, what) for number, what in enumerate(messages) if what == "good"]
    assert given_up == [(number, what) for number, what in enumerate(messages) if what == "bad"]


def test_a_suspected_message_waits_until_the_connection_is_steady() -> None:
    flow: FlowControl[str] = FlowControl()
    flow.begin(3)
    assert (flow.is_suspended, flow.room) == (False, 3), "nothing is suspected yet"
    flow.sent(1, "a")
    assert flow.hung_up() == []
    flow.clear()
    for _ in range(3):  # a broker that hangs up after each CONNACK
        flow.begin(3)
        assert (flow.is_suspended, flow.room) == (True, 0)
        assert flow.hung_up() == [], "no message can be the reason"
    flow.begin(3)
    flow.resume()
    assert flow.room == 1
    flow.sent(1, "a")
    assert flow.hung_up() == ["a"]
