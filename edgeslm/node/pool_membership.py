"""Pool membership: what a node subscribes to for its pool, and for whom a message is.

A broker keeps a node's session, and with it the share of pools that the node has left long ago: requests
would be parked there that nobody reads. So a small file remembers what was subscribed to. Knows no requests.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from edgeslm.config.schema import Pool
from edgeslm.protocol.delivery import Subscription
from edgeslm.protocol.topics import DISPATCH, Topics
from edgeslm.storage.atomic_json import write_record

log = logging.getLogger("edgeslm.node")


class Membership:
    """``own`` are the node's topics, ``file`` is where it remembers of which pools it was a member.

    A member is out of its share until :meth:`join`; a session that a killed node left is in it all the same.
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
        """Reads what is remembered; a file that is damaged says nothing."""
        try:
            recorded = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return
        for name, filters in recorded.items() if isinstance(recorded, dict) else ():
            if isinstance(filters, list) and all(isinstance(one, str) for one in filters):
                self._recorded[name] = filters
                self._pools.setdefault(name, Topics.of_pool(name, self._own.prefix))

    def take_up(self, pool: Pool | None) -> None:
        """Another pool, or none; what the old one sent already is still served."""
        self._pool = pool
        self._note(pool)
        if self._is_in:
            self._record()

    def join(self) -> None:
        """From now on :attr:`subscriptions` has the share; a node that is leaving already stays out."""
        if self._has_left:
            return
        self._is_in = True
        self._record()

    def leave(self) -> list[str]:
        """The filters to unsubscribe from, so that the broker gives its share to others."""
        share = [one.filter for one in self.subscriptions]
        self._is_in, self._has_left = False, True
        return share

    @property
    def subscriptions(self) -> list[Subscription]:
        """The share of the requests, and what is told to every member."""
        return [Subscription(one) for one in self._filters] if self._is_in else []

    @property
    def replies(self) -> list[str]:
        """Where a dispatcher has this node send results, whatever else it may send them to."""
        pool = self._pool
        if pool is None or pool.by != "dispatcher":
            return []
        return [f"{self._pools[pool.name].result('+')}/{DISPATCH}/{self._own.node}"]

    @property
    def left_over(self) -> list[str]:
        """Filters of pools and tasks from before, which the broker's session may still have."""
        wanted = [] if self._has_left else self._filters
        return [one for filters in self._recorded.values() for one in filters if one not in wanted]

    def addressee(self, topic: str) -> tuple[Topics, str] | None:
        """To whom a request on ``topic`` was sent, this node or a pool, and the task; None: it is none."""
        if (task := self._own.task_of(topic)) is not None:
            return self._own, task
        for topics in self._pools.values():
            if (task := topics.task_of(topic)) is not None:
                return topics, task
        return None

    def is_for_a_pool(self, topic: str) -> bool:
        return any(topics.task_of(topic) is not None for topics in self._pools.values())

    def cancelled(self, topic: str) -> Topics | None:
        """Whose requests are cancelled by a message on ``topic``: this node's or a pool's."""
        return next((one for one in (self._own, *self._pools.values()) if topic == one.cancel), None)

    @property
    def _filters(self) -> list[str]:
        """Of requests a filter for each task, since not every member can do all of them."""
        pool = self._pool
        if pool is None or pool.by != "share":
            return []
        topics = self._pools[pool.name]
        return [*(topics.shared(topics.request(task)) for task in pool.tasks), topics.cancel]

    def _note(self, pool: Pool | None) -> None:
        if pool is not None:
            self._pools.setdefault(pool.name, Topics.of_pool(pool.name, self._own.prefix))

    def _record(self) -> None:
        """Before it subscribes: a node that is killed right after that remembers it."""
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
