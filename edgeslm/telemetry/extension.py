"""Extensions: optional parts of a node, created when the configuration enables them.

The daemon starts and stops them, passes messages on their topics, and collects their ``health`` entries.
Extensions don't depend on each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgeslm.config.loader import Config
from edgeslm.protocol.delivery import Delivery, Subscription


class Extension:
    """Base class with hooks of the daemon's life cycle; by default they do nothing."""

    problem: str | None = None
    """An alert, as a sentence."""
    _work: asyncio.Task[Any] | None = None
    """Background task, cancelled by :meth:`stop`."""

    async def start(self) -> None:
        """Called before the models are loaded."""

    def online(self) -> None:
        """Called after the models are loaded, before the node goes online."""

    def take_up(self, config: Config) -> None:
        """Called after the switch to another configuration."""

    def close(self) -> None:
        """Called before the node drains: begin nothing new."""

    async def stop(self) -> None:
        """Ends everything; also called after a failed start."""
        self.close()
        self._end_work()
        if self._work is not None:
            await asyncio.wait([self._work])

    def _end_work(self) -> None:
        """Cancels the background task once; a second cancel would interrupt its clean-up."""
        if self._work is not None and not self._work.cancelling():
            self._work.cancel()

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """Topics without wildcards, constant."""
        return ()

    def connected(self) -> None:
        """Called after every CONNACK: the broker may have lost retained messages."""

    def on_message(self, delivery: Delivery) -> bool:
        """Called for a message on one of its topics. :return: whether it acknowledges the message itself;
        else routes get it too."""
        return False

    @property
    def alerts(self) -> Sequence[str]:
        return [self.problem] if self.problem else ()

    @property
    def pids(self) -> Mapping[str, int]:
        """Its child processes, by purpose."""
        return {}

    def health(self) -> Mapping[str, Any]:
        """Its entries in the health message."""
        return {}


class HasTasks(Protocol):
    """Has tasks, which may change while the node runs."""

    @property
    def tasks(self) -> Mapping[str, Any]: ...


class Documented(Protocol):
    """Has a node's health and info messages."""

    def health(self) -> dict[str, Any]: ...
    def info(self) -> dict[str, Any]: ...


class Announces(Protocol):
    """Publishes a node's state, info and health."""

    @property
    def state(self) -> str: ...
    def announce_info(self) -> None: ...
    def announce_health(self) -> None: ...
    async def retain(self, topic: str, payload: bytes) -> None:
        """Publishes a retained message."""
