"""Client quotas: fair share of the queue, and a rate limit (token bucket) for each client.

MQTT doesn't reveal client names, so a client is identified by its reply topic. Two programs that share a
reply topic count as one client, and a program that changes its reply topic counts as several.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeslm.errors import Busy, plural

OTHERS_S = 60.0
"""Seconds after another client's request during which a client is limited to its share of the queue."""
MOST_SENDERS = 1024
"""Maximum number of clients with an account. The account that was unused for longest is dropped first; its
client then starts with a full quota."""


@dataclass(slots=True)
class _Account:
    held: int = 0
    asked_at: float = 0.0
    tokens: float = 0.0
    """Remaining tokens; at 0 or less, the client must wait."""
    filled_at: float = 0.0


class ClientQuotas:
    """Limits for each client. A client may have ``queue`` requests waiting or running while other clients
    also send requests. ``tokens_per_min`` is the number of prompt and completion tokens that a client may use
    in a minute (None for no limit).

    The empty name stands for all clients without a reply topic, such as sensors, which would not receive a
    rejection. All clients without a reply topic together may have ``nameless_queue`` requests waiting or
    running (None for no limit).
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
        """Admits a request, which counts as waiting or running until :meth:`settle`. ``wait_s`` returns the
        estimated wait in seconds; it is called only for a rejection, since it scans the queue.

        :raises Busy: the client has used up its share of the queue or its tokens.
        """
        now = time.monotonic()
        account = self._account(sender, now)
        account.asked_at = now
        share = self._queue if sender else self._nameless_queue
        if share is not None and account.held >= share and self._others_ask(account, now):
            raise Busy(
                f"this sender has {plural(account.held, 'request')} here and others ask too; {share} are its "
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
        """Ends an admitted request and subtracts the tokens of ``usage``."""
        account = self._account(sender, time.monotonic())
        account.held = max(0, account.held - 1)
        account.tokens -= sum(usage.values())

    def charge(self, sender: str, usage: Mapping[str, int]) -> None:
        """Subtracts tokens that another node or server counted. The debt is at most the tokens of a minute,
        since nobody checks these counts."""
        account = self._account(sender, time.monotonic())
        account.tokens = max(-self._most, account.tokens - sum(usage.values()))

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
        for other in reversed(self._accounts.values()):  # most recent first
            if other is not account and (other.held or now - other.asked_at < OTHERS_S):
                return True
        return False
