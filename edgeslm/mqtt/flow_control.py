"""Flow control: messages in flight to the broker, limited by its Receive Maximum (MQTT 5 section 4.9).

Flow control also finds a message that makes the broker disconnect: after the first such disconnect, only one
message is in flight at a time, so the next disconnect identifies the message. A broker that disconnects soon
after CONNACK or SUBACK does so without any message, so a suspected message waits until the connection has
lasted for ``STEADY_S``. Pure, without locks.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

STEADY_S = 1.0
"""How long a connection must last, in seconds, before a suspected message is sent on it."""


class FlowControl(Generic[T]):
    """Messages (items) in flight, by packet identifier. ``receive_maximum`` is the maximum number of items in
    flight on the current connection.

    ``reserved`` counts items being published that have no packet identifier yet.
    """

    def __init__(self) -> None:
        self.receive_maximum = 1
        self.reserved = 0
        self._in_flight: dict[int, T] = {}
        self._one_at_a_time = False
        self.is_suspended = False
        """Whether nothing may be sent yet on the current connection."""

    def __len__(self) -> int:
        return len(self._in_flight) + self.reserved

    @property
    def room(self) -> int:
        """Number of items that may be sent now."""
        if self.is_suspended:
            return 0
        return (1 if self._one_at_a_time else self.receive_maximum) - len(self)

    def begin(self, receive_maximum: int) -> None:
        """Call this method after CONNACK, and if ``is_suspended`` is true then, :meth:`resume` after
        ``STEADY_S``."""
        self.receive_maximum = receive_maximum
        self.is_suspended = self._one_at_a_time

    def resume(self) -> None:
        self.is_suspended = False

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
        """Call this method after the broker disconnected because of a packet. :return: a list with the item
        that caused the disconnect; empty if unknown.

        The cause of the first disconnect is unknown: it may also be a QoS 0 message or a subscription.
        """
        guilty = list(self._in_flight.values()) if self._one_at_a_time else []
        self._one_at_a_time = True
        return guilty

    def passed(self) -> None:
        """Call this method when no item is queued or in flight any more; the full Receive Maximum then
        applies again."""
        self._one_at_a_time = False

    def clear(self) -> list[T]:
        """Removes all items after a disconnect. :return: the items that were in flight, oldest first."""
        items = list(self._in_flight.values())
        self._in_flight.clear()
        self.reserved = 0
        return items
