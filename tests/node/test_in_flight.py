from __future__ import annotations

import asyncio

from edgeslm.node.in_flight import InFlight, SingleFlight
from tests.fakes import make_delivery


def test_a_message_at_qos_1_has_a_name_and_one_at_qos_0_has_none() -> None:
    held = InFlight(make_delivery(), 3)
    assert held.key is not None and held.key == InFlight(make_delivery(dup=True), 3).key
    assert held.key != InFlight(make_delivery(), 4).key
    assert InFlight(make_delivery(qos=0), 3, unsure=True).key is None
    assert InFlight(make_delivery(), 3, b"own name").key == b"own name"


def test_repeats_can_wait_for_what_is_being_answered() -> None:
    async def main() -> None:
        flights = SingleFlight()
        assert flights.landing(b"a") is None
        with flights.flight(b"a"):
            landing = flights.landing(b"a")
            assert landing is not None and not landing.done()
            assert flights.landing(b"b") is None
        assert landing.done()
        assert flights.landing(b"a") is None
        with flights.flight(None):
            assert flights.landing(None) is None

    asyncio.run(main())
