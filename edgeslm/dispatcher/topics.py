"""The topics of a pool's dispatcher: to clients those of a node, to nodes a reply topic of its own for each.

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, base_topic
from edgeslm.protocol.topics import DISPATCH, Topics

KINDS = ("state", "info", "health")
_NODE = re.compile(r"(?!pool$)[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a message on a reply topic of ours is: a result of ``node`` for ``task``, or a piece of one."""

    task: str
    node: str
    is_piece: bool


@dataclass(frozen=True, slots=True)
class PoolTopics:
    """Those of the pool ``pool``. Reply topics are the same for whoever is its dispatcher, so that another
    one can go on where it broke off."""

    pool: str
    prefix: str = DEFAULT_PREFIX

    @property
    def clients(self) -> Topics:
        """What the pool is to its clients."""
        return Topics.of_pool(self.pool, self.prefix)

    @property
    def lease(self) -> str:
        return f"{self.clients.base}/lease"

    @property
    def answered(self) -> str:
        """Where the dispatcher at work tells the one that waits what is answered and not acknowledged yet;
        an empty message: nothing is."""
        return f"{self.clients.base}/answered"

    def node(self, name: str) -> Topics:
        return Topics(name, self.prefix)

    def node_filter(self, kind: str) -> str:
        """What all nodes say of themselves, of one of :data:`KINDS`."""
        return f"{base_topic(self.prefix, '+')}/{kind}"

    def reply(self, task: str, node: str) -> str:
        """Where a node sends its results: a topic for each node, so that it is known who answered."""
        return f"{self.clients.result(task)}/{DISPATCH}/{node}"

    @property
    def replies_filter(self) -> str:
        return f"{self.clients.base}/res/+/{DISPATCH}/+"

    @property
    def pieces_filter(self) -> str:
        return Topics.stream(self.replies_filter)

    def read_reply(self, topic: str) -> Reply | None:
        head = f"{self.clients.base}/res/"
        task, mark, node, *rest = [*topic[len(head) :].split("/"), "", ""]
        if not topic.startswith(head) or mark != DISPATCH or not _NODE.fullmatch(node):
            return None
        is_piece = rest == ["stream", "", ""]
        return Reply(task, node, is_piece) if is_piece or rest == ["", ""] else None

    def read_word(self, topic: str) -> tuple[str, str] | None:
        """The node and the kind of what a node says of itself."""
        head = base_topic(self.prefix, "")
        node, _, kind = topic[len(head) :].partition("/")
        said = topic.startswith(head) and kind in KINDS and _NODE.fullmatch(node)
        return (node, kind) if said else None
