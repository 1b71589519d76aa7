"""Topics of a pool's dispatcher: topics for clients, like the topics of a node, and one reply topic per node.

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
    """A parsed reply topic, on which ``node`` answers ``task`` with a result or a chunk of a result."""

    task: str
    node: str
    is_piece: bool


@dataclass(frozen=True, slots=True)
class PoolTopics:
    """Topics of the pool ``pool``. All dispatchers of the pool use the same reply topics, so that the next
    active dispatcher gets pending answers."""

    pool: str
    prefix: str = DEFAULT_PREFIX

    @property
    def clients(self) -> Topics:
        """The pool's topics for clients."""
        return Topics.of_pool(self.pool, self.prefix)

    @property
    def lease(self) -> str:
        return f"{self.clients.base}/lease"

    @property
    def answered(self) -> str:
        """The topic on which the active dispatcher publishes its acknowledgement log to the standby. An empty
        message clears the log."""
        return f"{self.clients.base}/answered"

    def node(self, name: str) -> Topics:
        return Topics(name, self.prefix)

    def node_filter(self, kind: str) -> str:
        """Topic filter for messages of the given kind, such as ``health``, from all nodes."""
        return f"{base_topic(self.prefix, '+')}/{kind}"

    def reply(self, task: str, node: str) -> str:
        """The reply topic for a node's answers. Each node has its own topic, which shows which node has
        answered."""
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
        """The node and the kind of message in a topic that matches :meth:`node_filter`; None for any other
        topic."""
        head = base_topic(self.prefix, "")
        node, _, kind = topic[len(head) :].partition("/")
        said = topic.startswith(head) and kind in KINDS and _NODE.fullmatch(node)
        return (node, kind) if said else None
