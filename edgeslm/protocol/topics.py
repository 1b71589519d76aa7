"""The topics of one node, and where it may send results.

Pure. The layout is protocol version 1 (``docs/reference/mqtt.md``). Knows no payloads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.strict_json import shown
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, base_topic, matches, topic_name_fault

BROKER_DROPPED = "$SYS/broker/publish/messages/dropped"
"""Where mosquitto tells how many messages it has dropped since it started, those of all its clients together:
a whole number as text, retained, again when it has changed (``sys_interval``, 10 s). Other brokers have no
such topic, or let nobody read it."""


POOL = "pool/"
"""Before the name of a pool, where a node's name stands; no node is called ``pool``."""

DISPATCH = ".dispatch"
"""The level behind the task in the reply topics that a dispatcher gives to nodes; no login's name begins
with a dot."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic of one node: ``<prefix>/v1/<node>/...``; those of a pool have ``pool/<name>`` there."""

    node: str
    prefix: str = DEFAULT_PREFIX

    @classmethod
    def of_pool(cls, name: str, prefix: str = DEFAULT_PREFIX) -> Topics:
        return cls(f"{POOL}{name}", prefix)

    @property
    def pool(self) -> str | None:
        """The name of the pool whose topics these are; None: a node's."""
        return self.node.removeprefix(POOL) if self.node.startswith(POOL) else None

    def shared(self, topic: str) -> str:
        """The filter by which the members of this pool share what comes on ``topic``."""
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
        return f"{self.base}/feedback"

    def control(self, command: str) -> str:
        """Where a command to the node comes, such as ``models/list``."""
        return f"{self.base}/ctl/{command}"

    def control_result(self, command: str) -> str:
        return f"{self.control(command)}/res"

    @property
    def requests_filter(self) -> str:
        """The filter that catches the requests of every task."""
        return f"{self.base}/req/+"

    def request(self, task: str) -> str:
        return f"{self.base}/req/{task}"

    def result(self, task: str) -> str:
        """Where the result of a request goes that named no reply topic."""
        return f"{self.base}/res/{task}"

    def event(self, route: str) -> str:
        return f"{self.base}/event/{route}"

    def task_of(self, topic: str) -> str | None:
        """The task that a request topic of this node names; None for any other topic."""
        head = f"{self.base}/req/"
        task = topic[len(head) :]
        return task if topic.startswith(head) and task and "/" not in task else None

    @staticmethod
    def stream(reply_topic: str) -> str:
        """Where the chunks of a streamed answer go."""
        return f"{reply_topic}/stream"

    def takes_results(self, topic: str) -> bool:
        """False for a topic under ``<prefix>/v1`` that means something else than results.

        A result sent to another node's ``req`` or ``cancel`` topic would be a command in our name, and one
        sent to what a dispatcher gave to another node would be that node's answer.
        """
        head = base_topic(self.prefix, "")
        if not topic.startswith(head):
            return True
        owner, *levels = topic[len(head) :].split("/")
        if owner != "pool":
            return levels[:1] == ["res"]
        return levels[1:2] == ["res"] and (levels[3:4] != [DISPATCH] or levels[4:5] == [self.node])


def check_topic_name(topic: str) -> None:
    """Whether a client may publish to ``topic``; else InvalidRequest with the reason."""
    fault = topic_name_fault(topic)
    if fault:
        raise InvalidRequest(f"The topic {shown(topic, 100)} {fault}.")


def check_reply_topic(topic: str, topics: Topics, allowed: Iterable[str]) -> None:
    """Whether results may be sent to ``topic``; else InvalidRequest with the reason.

    ``allowed`` are the filters of the configuration's ``replies``.
    """
    # The longest name that is made of it, so that a streamed answer can't fail where the result would pass.
    fault = topic_name_fault(topic) or topic_name_fault(topics.stream(topic))
    if not fault and not (topics.takes_results(topic) and any(matches(item, topic) for item in allowed)):
        fault = "isn't one this node may send results to, unless `replies` in its configuration allows it"
    if fault:
        raise InvalidRequest(
            f"The reply topic {shown(topic, 100)} {fault}; use one below {topics.base}/res/."
        )


def sender_of(reply_to: str, topics: Topics) -> str:
    """Who chose a reply topic: the name behind the task in a result topic, else the whole of it.

    All that name no reply topic are one.
    """
    head = f"{topics.base}/res/"
    if not reply_to.startswith(head):
        return reply_to
    _, *name = reply_to[len(head) :].split("/")
    return name[0] if name else ""
