"""Messages in flight: delivered by the broker and not acknowledged."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.protocol.delivery import Delivery
from edgeslm.storage.journal import delivery_key


@dataclass(slots=True, eq=False)
class InFlight:
    """A message that isn't acknowledged. ``epoch`` is the broker's session that it came in.

    ``left`` counts what still works on it; ``spooled`` is its number in the spool; ``qos0`` came at QoS 0.
    ``refusal`` says why it is one too many. ``is_request`` is false for what needs no answer;
    ``is_broken_off`` is true if some of the work was cancelled, which is no answer.
    """

    delivery: Delivery
    epoch: int
    name: bytes | None = None
    left: int = 0
    is_request: bool = False
    is_broken_off: bool = False
    spooled: int | None = None
    qos0: bool = False
    refusal: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        delivery = self.delivery
        reply = len((delivery.response_topic or "").encode())
        return len(delivery.payload) + len(delivery.correlation or b"") + reply

    @property
    def key(self) -> bytes | None:
        """Its name in the journal if its sender gave it none; nothing is remembered of what came at QoS 0."""
        if self.name is None and not self.qos0:
            self.name = delivery_key(self.epoch, self.delivery)
        return self.name
