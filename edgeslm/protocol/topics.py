"""Topics of a node or pool, and the check of reply topics. Pure; see ``docs/reference/mqtt.md``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.strict_json import shown
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, base_topic, matches, topic_name_fault

BROKER_DROPPED = "$SYS/broker/publish/messages/dropped"
"""Topic on which mosquitto publishes how many messages it has dropped since its start, for all clients
together. The payload is an integer as text. The message is retained, and published every ``sys_interval`` (10
s) if the number has changed. Other brokers lack this topic, or forbid reading it."""


POOL = "pool/"
"""Prefix of a pool's name in topics, where it replaces a node's name; no node may be called ``pool``."""

DISPATCH = ".dispatch"
"""Topic level that follows the task in a reply topic, if a dispatcher sent the request to the node. In the
reply topics of other clients, this level is the login name of the client; no login name begins with a dot."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a node, ``<prefix>/v1/<node>/...``, or of a pool, ``<prefix>/v1/pool/<name>/...``."""

    node: str
    prefix: str = DEFAULT_PREFIX

    @classmethod
    def of_pool(cls, name: str, prefix: str = DEFAULT_PREFIX) -> Topics:
        return cls(f"{POOL}{name}", prefix)

    @property
    def pool(self) -> str | None:
        """The pool's name; None for the topics of a node."""
        return self.node.removeprefix(POOL) if self.node.startswith(POOL) else None

    def shared(self, topic: str) -> str:
        """Topic filter of the shared subscription to ``topic`` by the members of the pool."""
        return f"$share/{self.pool}/{topic}"

    @property
    def base(self) -> str:
        return base_topic(self.prefix, self.node)

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def info(self) -> str:
        return f"{self.base}/info"

    @property
    def health(self) -> str:
        return f"{self.base}/health"

    @property
    def dead(self) -> str:
        return f"{self.base}/dead"

    @property
    def cancel(self) -> str:
        return f"{self.base}/cancel"

    @property
    def feedback(self) -> str:
        """Topic of corrections by senders without a name."""
        return f"{self.base}/feedback"

    def feedback_by(self, sender: str) -> str:
        """Topic of corrections by a sender that the configuration names."""
        return f"{self.feedback}/{sender}"

    def feedback_sender(self, topic: str) -> str | None:
        """The sender of a correction on ``topic``, "" if it has no name; None for any other topic."""
        if topic == self.feedback:
            return ""
        return topic.removeprefix(f"{self.feedback}/") if topic.startswith(f"{self.feedback}/") else None

    def control(self, command: str) -> str:
        """Topic of a command to the node, such as ``models/list``."""
        return f"{self.base}/ctl/{command}"

    def control_result(self, command: str) -> str:
        return f"{self.control(command)}/res"

    @property
    def requests_filter(self) -> str:
        """Topic filter of the requests to all tasks."""
        return f"{self.base}/req/+"

    def request(self, task: str) -> str:
        return f"{self.base}/req/{task}"

    def result(self, task: str) -> str:
        """Topic of the result of a request that names no reply topic."""
        return f"{self.base}/res/{task}"

    def event(self, route: str) -> str:
        return f"{self.base}/event/{route}"

    def task_of(self, topic: str) -> str | None:
        """The task in a request topic of this node; None for any other topic."""
        head = f"{self.base}/req/"
        task = topic[len(head) :]
        return task if topic.startswith(head) and task and "/" not in task else None

    @staticmethod
    def stream(reply_topic: str) -> str:
        """Topic of a streamed answer's chunks."""
        return f"{reply_topic}/stream"

    def takes_results(self, topic: str) -> bool:
        """Whether this node may send results to ``topic``; false for topics below ``<prefix>/v1`` that have
        another purpose.

        A result on another node's ``req`` or ``cancel`` topic would be a command sent in this node's name. A
        result on a reply topic that a dispatcher gave to another node would count as that node's answer.
        """
        head = base_topic(self.prefix, "")
        if not topic.startswith(head):
            return True
        owner, *levels = topic[len(head) :].split("/")
        if owner != "pool":
            return levels[:1] == ["res"]
        return levels[1:2] == ["res"] and (levels[3:4] != [DISPATCH] or levels[4:5] == [self.node])


def check_topic_name(topic: str) -> None:
    """:raises InvalidRequest: a client can't publish to ``topic``; the error's text gives the reason."""
    fault = topic_name_fault(topic)
    if fault:
        raise InvalidRequest(f"The topic {shown(topic, 100)} {fault}.")


def check_reply_topic(topic: str, topics: Topics, allowed: Iterable[str]) -> None:
    """Checks a reply topic; ``allowed`` are the topic filters under ``replies`` in the configuration.

    :raises InvalidRequest: results may not be sent to ``topic``; the error's text gives the reason.
    """
    # The stream topic too, since it is longer: a streamed answer must not fail where the result would pass.
    fault = topic_name_fault(topic) or topic_name_fault(topics.stream(topic))
    if not fault and not (topics.takes_results(topic) and any(matches(item, topic) for item in allowed)):
        fault = "isn't one this node may send results to, unless `replies` in its configuration allows it"
    if fault:
        raise InvalidRequest(
            f"The reply topic {shown(topic, 100)} {fault}; use one below {topics.base}/res/."
        )


def sender_of(reply_to: str, topics: Topics) -> str:
    """Derives the name of a request's sender from the reply topic. If this is a result topic of the node, the
    name is the level after the task, otherwise the whole reply topic.

    All senders without a reply topic have the empty name.
    """
    head = f"{topics.base}/res/"
    if not reply_to.startswith(head):
        return reply_to
    _, *name = reply_to[len(head) :].split("/")
    return name[0] if name else ""
