"""Flow control: what is in flight to the broker, at most its Receive Maximum (MQTT 5 section 4.9).

Finds the message for which a broker hangs up, too: after the first time one is in flight at a time, and the
next time it was that one. Pure: no connection, no lock.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class FlowControl(Generic[T]):
    """Items in flight by their packet identifiers; ``receive_maximum`` is that of the present connection.

    ``reserved`` counts those that are being published and have no identifier yet.
    """

    def __init__(self) -> None:
        self.receive_maximum = 1
        self.reserved = 0
        self._in_flight: dict[int, T] = {}
        self._one_at_a_time = False

    def __len__(self) -> int:
        return len(self._in_flight) + self.reserved

    @property
    def room(self) -> int:
        """How many more may be sent now."""
        return (1 if self._one_at_a_time else self.receive_maximum) - len(self)

    def sent(self, mid: int, item: T) -> None:
        self._in_flight[mid] = item

    def __contains__(self, mid: int) -> bool:
        return mid in self._in_flight

    def get(self, mid: int) -> T | None:
        return self._in_flight.get(mid)

    def acknowledged(self, mid: int) -> T:
        """The broker has it, or refuses it.

        :raises KeyError: nothing with this identifier is in flight.
        """
        return self._in_flight.pop(mid)

    def hung_up(self) -> list[T]:
        """The broker has ended the connection for a packet: those in flight that it was for, if known.

        A message of QoS 0 or a subscription may be to blame the first time.
        """
        guilty = list(self._in_flight.values()) if self._one_at_a_time else []
        self._one_at_a_time = True
        return guilty

    def passed(self) -> None:
        """All is through that was there when the broker hung up: as many as it takes again."""
        self._one_at_a_time = False

    def clear(self) -> list[T]:
        """The connection is gone: what was in flight, the oldest first."""
        items = list(self._in_flight.values())
        self._in_flight.clear()
        self.reserved = 0
        return items
