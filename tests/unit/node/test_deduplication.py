from __future__ import annotations

import asyncio

from edgeslm.node.deduplication import SingleFlight


def test_repeats_can_wait_for_what_is_being_answered() -> None:
    async def main() -> None:
        single_flight = SingleFlight()
        assert single_flight.running(b"a") is None
        with single_flight.flight(b"a"):
            running = single_flight.running(b"a")
            assert running is not None and not running.done()
            assert single_flight.running(b"b") is None
        assert running.done()
        assert single_flight.running(b"a") is None
        with single_flight.flight(None):
            assert single_flight.running(None) is None

    asyncio.run(main())
