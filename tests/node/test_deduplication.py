from __future__ import annotations

import asyncio

from edgeslm.node.deduplication import SingleFlight


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
