"""Client quotas: fair share and rate limit (token bucket), so that no client takes the whole node.

A sender is known by the reply topic that it chose, since MQTT tells no names: two programs that share one are
one sender, and one that makes up new names is many. Knows no topics and no queue.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeslm.errors import Busy

OTHERS_S = 60.0
"""So long after another sender's request a sender is held to its share of the queue."""
MOST_SENDERS = 1024
"""Remembered at a time; of one that is forgotten nothing is counted against it any more."""


@dataclass(slots=True)
class _Account:
    held: int = 0
    asked_at: float = 0.0
    tokens: float = 0.0
    """That are left; below 0 it has to wait."""
    filled_at: float = 0.0


class ClientQuotas:
    """``queue`` is how many requests of one sender are held at a time while others ask too,
    ``tokens_per_min`` how many tokens a minute are read and written for it (None: without an end).

    The empty name stands for all that gave none, such as sensors that would not hear a refusal: they are
    held to ``nameless_queue`` together, without an end if it is None.
    """

    def __init__(
        self,
        queue: int,
        tokens_per_min: int | None = None,
        *,
        nameless_queue: int | None = None,
    ) -> None:
        self._queue = queue
        self._nameless_queue = nameless_queue
        self._rate = tokens_per_min / 60 if tokens_per_min is not None else None
        self._most = float(tokens_per_min or 0)
        self._accounts: OrderedDict[bytes, _Account] = OrderedDict()

    def admit(self, sender: str, wait_s: Callable[[], float]) -> None:
        """Counts a request, until :meth:`settle`. ``wait_s`` says how long the queue takes, which is to look
        at all that waits.

        :raises Busy: the sender has its share.
        """
        now = time.monotonic()
        account = self._account(sender, now)
        account.asked_at = now
        share = self._queue if sender else self._nameless_queue
        if share is not None and account.held >= share and self._others_ask(account, now):
            raise Busy(
                f"{account.held} requests of this sender are held and others ask too; {share} are its "
                "share, try again later",
                retry_after_ms=math.ceil(wait_s() * 1000),
            )
        if self._rate is not None and account.tokens <= 0:
            raise Busy(
                "this sender has used its tokens of this minute; try again later",
                retry_after_ms=math.ceil((1 - account.tokens) / self._rate * 1000),
            )
        account.held += 1

    def settle(self, sender: str, usage: Mapping[str, int]) -> None:
        """A request that was admitted is done."""
        account = self._account(sender, time.monotonic())
        account.held = max(0, account.held - 1)
        account.tokens -= sum(usage.values())

    def _account(self, sender: str, now: float) -> _Account:
        name = hashlib.blake2b(sender.encode(errors="replace"), digest_size=16).digest()
        account = self._accounts.pop(name, None)
        if account is None:
            account = _Account(tokens=self._most, filled_at=now)
        self._accounts[name] = account
        if len(self._accounts) > MOST_SENDERS:
            self._accounts.popitem(last=False)
        if self._rate is not None:
            account.tokens = min(self._most, account.tokens + (now - account.filled_at) * self._rate)
            account.filled_at = now
        return account

    def _others_ask(self, account: _Account, now: float) -> bool:
        for other in reversed(self._accounts.values()):  # the one used last comes first
            if other is not account and (other.held or now - other.asked_at < OTHERS_S):
                return True
        return False
