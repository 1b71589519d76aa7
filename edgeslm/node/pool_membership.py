"""Pool membership: a node's shared subscriptions to its pool, and the addressee of each message.

The broker keeps a node's subscriptions in the node's session, even subscriptions to pools that the node has
left; requests to these pools would pile up in the session. Therefore a small file records all subscribed
filters, and the node unsubscribes from old filters.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from edgeslm.config.sections import Pool
from edgeslm.protocol.delivery import Subscription
from edgeslm.protocol.topics import DISPATCH, Topics
from edgeslm.storage.atomic_json import write_record

log = logging.getLogger("edgeslm.node")


class Membership:
    """``own`` contains the topics of the node itself; ``file`` records the topic filters of the node's
    current and former pools.

    The node subscribes to the pool's topics only after :meth:`join`. After a kill, however, the broker still
    has the earlier subscriptions in the node's session.
    """

    def __init__(self, own: Topics, pool: Pool | None, file: Path) -> None:
        self._own = own
        self._file = file
        self._pool = pool
        self._pools: dict[str, Topics] = {}
        self._recorded: dict[str, list[str]] = {}
        self._is_in = self._has_left = False
        self._note(pool)

    def open(self) -> None:
        """Reads the file; a damaged file is ignored."""
        try:
            recorded = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return
        for name, filters in recorded.items() if isinstance(recorded, dict) else ():
            if isinstance(filters, list) and all(isinstance(one, str) for one in filters):
                self._recorded[name] = filters
                self._pools.setdefault(name, Topics.of_pool(name, self._own.prefix))

    def take_up(self, pool: Pool | None) -> None:
        """Switches to ``pool``; requests that were sent to the former pool are still served."""
        self._pool = pool
        self._note(pool)
        if self._is_in:
            self._record()

    def join(self) -> None:
        """Adds the shared subscriptions, unless :meth:`leave` was called."""
        if self._has_left:
            return
        self._is_in = True
        self._record()

    def leave(self) -> list[str]:
        """:return: filters to unsubscribe from, so that the broker gives requests to other members."""
        share = [one.filter for one in self.subscriptions]
        self._is_in, self._has_left = False, True
        return share

    @property
    def subscriptions(self) -> list[Subscription]:
        """The shared subscriptions to the pool's requests, and the subscription to the pool's cancel topic,
        which isn't shared: every member reads it."""
        return [Subscription(one) for one in self._filters] if self._is_in else []

    @property
    def replies(self) -> list[str]:
        """Filters of the dispatcher's reply topics, which are allowed in addition to the configured
        ``replies``."""
        pool = self._pool
        if pool is None or pool.by != "dispatcher":
            return []
        return [f"{self._pools[pool.name].result('+')}/{DISPATCH}/{self._own.node}"]

    @property
    def left_over(self) -> list[str]:
        """Topic filters of former pools and tasks to which the node's session may still be subscribed."""
        wanted = [] if self._has_left else self._filters
        return [one for filters in self._recorded.values() for one in filters if one not in wanted]

    def addressee(self, topic: str) -> tuple[Topics, str] | None:
        """The topics of the node or pool that a request was sent to, and the task; None if ``topic`` is not a
        request topic."""
        if (task := self._own.task_of(topic)) is not None:
            return self._own, task
        for topics in self._pools.values():
            if (task := topics.task_of(topic)) is not None:
                return topics, task
        return None

    def is_for_a_pool(self, topic: str) -> bool:
        return any(topics.task_of(topic) is not None for topics in self._pools.values())

    def cancelled(self, topic: str) -> Topics | None:
        """All topics of the node or pool whose cancel topic is ``topic``; None if ``topic`` is not a cancel
        topic."""
        return next((one for one in (self._own, *self._pools.values()) if topic == one.cancel), None)

    @property
    def _filters(self) -> list[str]:
        """The topic filters of the pool: the cancel topic, and one filter per task, since members may serve
        different tasks."""
        pool = self._pool
        if pool is None or pool.by != "share":
            return []
        topics = self._pools[pool.name]
        return [*(topics.shared(topics.request(task)) for task in pool.tasks), topics.cancel]

    def _note(self, pool: Pool | None) -> None:
        if pool is not None:
            self._pools.setdefault(pool.name, Topics.of_pool(pool.name, self._own.prefix))

    def _record(self) -> None:
        """Writes the filters to the file. The caller subscribes afterwards, so that even after a crash the
        file contains every subscribed filter."""
        if self._pool is None:
            return
        known = self._recorded.setdefault(self._pool.name, [])
        fresh = [one for one in self._filters if one not in known]
        if not fresh:
            return
        known += fresh
        try:
            write_record(self._file, self._recorded)
        except OSError as error:
            log.warning("%s can't be written: %s", self._file, error.strerror or error)
