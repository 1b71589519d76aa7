"""Extensions: optional parts of a node, created when the configuration enables them.

The daemon starts and stops extensions, passes them messages of their topics, and collects their ``health``.
Extensions don't depend on each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgeslm.config.loader import Config
from edgeslm.protocol.delivery import Delivery, Subscription


class Extension:
    """Base class with hooks of the daemon's life cycle; by default the hooks do nothing."""

    problem: str | None = None
    """An alert, as a sentence; None if there is no problem."""
    _work: asyncio.Task[Any] | None = None
    """Background task, cancelled by :meth:`stop`."""

    async def start(self) -> None:
        """Called before the models are loaded."""

    def online(self) -> None:
        """Called after the models are loaded, before the node goes online."""

    def take_up(self, config: Config) -> None:
        """Called after the node has switched to another configuration, ``config``."""

    def reloaded(self) -> None:
        """Called after each reload, also if the configuration is the same: files that it names may have
        changed."""

    async def drain(self) -> None:
        """Waits for running work of the extension; cancelled when the node's limit is reached. Called after
        :meth:`close`."""

    def close(self) -> None:
        """Called before the node drains; the extension must not begin new work."""

    async def stop(self) -> None:
        """Ends all work of the extension; also called after a failed start."""
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
        """The extension's subscriptions, to topics without wildcards. The subscriptions never change."""
        return ()

    def connected(self) -> None:
        """Called after every CONNACK, to publish retained messages again, which the broker may have lost."""

    def on_message(self, delivery: Delivery) -> bool:
        """Called for a message on one of the extension's topics.

        :return: whether the extension acknowledges the message; if not, routes get the message, too.
        """
        return False

    @property
    def alerts(self) -> Sequence[str]:
        return [self.problem] if self.problem else ()

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids of the extension's child processes, by purpose."""
        return {}

    def health(self) -> Mapping[str, Any]:
        """The extension's entries in the health message."""
        return {}


class HasTasks(Protocol):
    """An object with tasks, which may change while the node runs."""

    @property
    def tasks(self) -> Mapping[str, Any]: ...


class Documented(Protocol):
    """An object that provides a node's health and info messages."""

    def health(self) -> dict[str, Any]: ...
    def info(self) -> dict[str, Any]: ...


class Announces(Protocol):
    """An object that publishes a node's state, info and health."""

    @property
    def state(self) -> str: ...
    def announce_info(self) -> None: ...
    def announce_health(self) -> None: ...
    async def retain(self, topic: str, payload: bytes) -> None:
        """Publishes a retained message."""
