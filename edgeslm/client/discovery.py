"""Discovery of nodes: subscribes to their retained ``state``, ``info`` and ``health``.

A hub is a broker that receives data from the brokers of several sites. At a hub, discovery finds the nodes of
the sites, and detects whether each site is connected. For each node, discovery keeps the last ``state``,
``info`` and ``health``. Nothing is published.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeslm.client.listening import Listener
from edgeslm.errors import InvalidRequest
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.protocol.topic_filters import base_topic, link_topic, matches, site_topic
from edgeslm.protocol.topics import POOL

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

    from edgeslm.mqtt.connection import BrokerLink

KINDS = ("state", "info", "health")
MOST_NODES = 10_000

ALL_SITES = "+"


@dataclass(frozen=True, slots=True)
class Uplink:
    """Whether a site is connected to its hub, and since when (``time.time()``). If ``since_before`` is true,
    the site's state changed at an unknown time before ``since``."""

    is_up: bool
    since: float
    since_before: bool


@dataclass(slots=True)
class Sighting:
    """A node's last ``state``, ``info`` and ``health`` messages as parsed JSON, and the time at which each
    message arrived (``time.time()``). A retained message may have been published long before it arrived.

    For a pool's dispatcher, ``node`` is ``pool/NAME``. ``site`` is None for a node that is connected to this
    broker directly.
    """

    node: str
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard_at: dict[str, float] = field(default_factory=dict)
    site: str | None = None


class Discovery(Listener):
    """An MQTT connection that subscribes but never publishes. With ``node`` None, all nodes below ``prefix``
    are found. Thread-safe.

    With ``site`` None, the nodes of this broker are found. If ``site`` is a site's name or ``ALL_SITES``,
    ``address`` must be the address of a hub, and the nodes of that site or of all sites are found; ``prefix``
    is then the topic prefix that the sites use.

    :param most_nodes: maximum number of nodes to keep, so that a flood of fake nodes can't fill the memory.
    """

    def __init__(
        self,
        address: BrokerAddress,
        prefix: str,
        node: str | None = None,
        *,
        site: str | None = None,
        most_nodes: int = MOST_NODES,
    ) -> None:
        self._most_nodes = most_nodes
        self._left_out = False
        names = [node] if node is not None else ["+", f"{POOL}+"]
        bases = [base_topic(prefix, name) for name in names]
        self._bases = bases if site is None else [site_topic(site, base) for base in bases]
        self._site_link = None if site is None else link_topic(site)
        self._is_one = node is not None and site != ALL_SITES
        self._sightings: dict[tuple[str, str], Sighting] = {}
        self._uplinks: dict[str, Uplink] = {}
        filters = [f"{base}/{kind}" for base in self._bases for kind in KINDS]
        filters += [self._site_link] if self._site_link else []
        super().__init__(address, filters, f"{prefix.replace('/', '-')}-top", needs_all=False)

    @property
    def shortfall(self) -> str | None:
        """A warning if there are more nodes than the limit, else None."""
        if not self._left_out:
            return None
        return f"More than {self._most_nodes} nodes are at this broker; the others are left out."

    def sightings(self) -> list[Sighting]:
        """All nodes, ordered by site and name."""
        with self._changed:
            return [
                Sighting(one.node, dict(one.documents), dict(one.heard_at), one.site)
                for _, one in sorted(self._sightings.items())
            ]

    def uplinks(self) -> dict[str, Uplink]:
        """Site -> its connection to the hub, for sites that have reported their connection."""
        with self._changed:
            return dict(sorted(self._uplinks.items()))

    def _is_complete(self) -> bool:
        return self._is_one and any(len(one.documents) == len(KINDS) for one in self._sightings.values())

    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._site_link is not None and matches(self._site_link, topic):
            self._note_uplink(topic.split("/")[1], payload, retained)
            return
        base, _, kind = topic.rpartition("/")
        if kind not in KINDS or not any(matches(one, base) for one in self._bases):
            return
        levels = base.split("/")
        site, node = None if self._site_link is None else levels[1], levels[-1]
        if levels[-2:-1] == [POOL.rstrip("/")]:
            node = POOL + node
        elif node == POOL.rstrip("/"):  # a reserved name
            return
        key = (site or "", node)
        if not payload:  # the retained message was cleared
            self._forget(key, kind)
            return
        try:
            document = parse_json(decode_text(payload))
        except InvalidRequest:
            return
        if isinstance(document, dict) and not self._is_one_too_many(key):
            sighting = self._sightings.setdefault(key, Sighting(node, site=site))
            sighting.documents[kind] = document
            sighting.heard_at[kind] = time.time()

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        """Nothing is published."""

    def _is_one_too_many(self, key: tuple[str, str]) -> bool:
        is_new = key not in self._sightings
        is_too_many = is_new and len(self._sightings) >= self._most_nodes
        self._left_out = self._left_out or is_too_many
        return is_too_many

    def _note_uplink(self, site: str, payload: bytes, retained: bool) -> None:
        there = self._uplinks.get(site)
        if payload not in (b"0", b"1"):
            self._uplinks.pop(site, None)
        elif there is None and len(self._uplinks) == self._most_nodes:
            self._left_out = True
        elif there is None or there.is_up != (payload == b"1"):
            self._uplinks[site] = Uplink(payload == b"1", time.time(), retained)

    def _forget(self, key: tuple[str, str], kind: str) -> None:
        sighting = self._sightings.get(key)
        if sighting is not None:
            sighting.documents.pop(kind, None)
            sighting.heard_at.pop(kind, None)
            if not sighting.documents:
                del self._sightings[key]
