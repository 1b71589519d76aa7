"""Flow control: messages in flight to the broker, limited by its Receive Maximum (MQTT 5 section 4.9).

Also finds the message that makes a broker disconnect: after the first time, only one message is in flight at
a time, so the next disconnect identifies it. Pure, without locks.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class FlowControl(Generic[T]):
    """Items in flight by packet identifier; ``receive_maximum`` is that of the current connection.

    ``reserved`` counts items being published that have no packet identifier yet.
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
        """Number of items that may be sent now."""
        return (1 if self._one_at_a_time else self.receive_maximum) - len(self)

    def sent(self, mid: int, item: T) -> None:
        self._in_flight[mid] = item

    def __contains__(self, mid: int) -> bool:
        return mid in self._in_flight

    def get(self, mid: int) -> T | None:
        return self._in_flight.get(mid)

    def acknowledged(self, mid: int) -> T:
        """Removes an item that the broker has acknowledged or refused.

        :raises KeyError: no item with this identifier is in flight.
        """
        return self._in_flight.pop(mid)

    def hung_up(self) -> list[T]:
        """The broker disconnected because of a packet. :return: the item that caused it; empty if unknown.

        The first time, a QoS 0 message or a subscription may be the cause.
        """
        guilty = list(self._in_flight.values()) if self._one_at_a_time else []
        self._one_at_a_time = True
        return guilty

    def passed(self) -> None:
        """Everything queued when the broker disconnected is delivered: back to the full Receive Maximum."""
        self._one_at_a_time = False

    def clear(self) -> list[T]:
        """Empties it after a disconnect. :return: the items in flight, oldest first."""
        items = list(self._in_flight.values())
        self._in_flight.clear()
        self.reserved = 0
        return items
