"""Extensions: parts of a node beside its requests, each made when the configuration names it.

The daemon starts and stops them, hands them what comes on their topics, and asks them for ``health``. An
extension sees of the node what it is given, and no other extension.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgeslm.config.loader import Config
from edgeslm.protocol.delivery import Delivery, Subscription


class Extension:
    """What a part may do at each turn of the daemon's life: nothing, unless it says otherwise."""

    problem: str | None = None
    """What somebody should look at, as a sentence."""
    _work: asyncio.Task[Any] | None = None
    """What it does beside the requests, until :meth:`stop`."""

    async def start(self) -> None:
        """Before the models are loaded."""

    def online(self) -> None:
        """The models are loaded, and the node is about to say so."""

    def take_up(self, config: Config) -> None:
        """Another configuration is at work."""

    def close(self) -> None:
        """The node is about to drain: nothing new is begun."""

    async def stop(self) -> None:
        """Ends all that it does; also after a start that failed."""
        self.close()
        self._end_work()
        if self._work is not None:
            await asyncio.wait([self._work])

    def _end_work(self) -> None:
        """Cancels it once: a second time would break off how it ends."""
        if self._work is not None and not self._work.cancelling():
            self._work.cancel()

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """To topics without wildcards, always the same."""
        return ()

    def connected(self) -> None:
        """After every CONNACK: the broker may have lost what it was told."""

    def on_message(self, delivery: Delivery) -> bool:
        """On one of its topics. :return: whether it is this part's alone, to acknowledge too."""
        return False

    @property
    def alerts(self) -> Sequence[str]:
        return [self.problem] if self.problem else ()

    @property
    def pids(self) -> Mapping[str, int]:
        """Processes of its own, by what they are for."""
        return {}

    def health(self) -> Mapping[str, Any]:
        """Its entries in the document ``health``."""
        return {}


class HasTasks(Protocol):
    """Whose tasks change while the node runs."""

    @property
    def tasks(self) -> Mapping[str, Any]: ...


class Documented(Protocol):
    """What a node says of itself, as ``health`` and ``info`` have it."""

    def health(self) -> dict[str, Any]: ...
    def info(self) -> dict[str, Any]: ...


class Announces(Protocol):
    """What the bus is told of a node."""

    @property
    def state(self) -> str: ...
    def announce_info(self) -> None: ...
    def announce_health(self) -> None: ...
    async def retain(self, topic: str, payload: bytes) -> None:
        """Publishes what the broker keeps."""
