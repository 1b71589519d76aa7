from __future__ import annotations

from edgeslm.node.in_flight import InFlight
from tests.fakes import make_delivery


def test_a_message_at_qos_1_has_a_name_and_one_at_qos_0_has_none() -> None:
    held = InFlight(make_delivery(), 3)
    assert held.key is not None and held.key == InFlight(make_delivery(dup=True), 3).key
    assert held.key != InFlight(make_delivery(), 4).key
    assert InFlight(make_delivery(qos=0), 3, qos0=True).key is None
    assert InFlight(make_delivery(), 3, b"own name").key == b"own name"
