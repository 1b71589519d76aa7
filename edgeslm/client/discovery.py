"""Discovery of nodes: subscribes to their retained ``state``, ``info`` and ``health``.

A hub is a broker that receives data from the brokers of several sites. At a hub, discovery finds the nodes of
the sites, and detects whether each site is connected. For each node, discovery keeps the last ``state``,
``info`` and ``health``. Nothing is published.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeslm.errors import BrokerError, InvalidRequest
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.connection import PAUSES_S, BrokerLink, ConnectionSettings, Network
from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.protocol.delivery import Subscription
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.protocol.topic_filters import base_topic, link_topic, matches, site_topic
from edgeslm.protocol.topics import POOL

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

KINDS = ("state", "info", "health")
MOST_NODES = 10_000
_DOCUMENT_BYTES = 1024 * 1024
_CALM_S = 0.5
"""Seconds without a retained message after which all retained messages count as received."""


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


class Discovery:
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
        self._address = address
        names = [node] if node is not None else ["+", f"{POOL}+"]
        bases = [base_topic(prefix, name) for name in names]
        self._bases = bases if site is None else [site_topic(site, base) for base in bases]
        self._link = None if site is None else link_topic(site)
        self._is_one = node is not None and site != ALL_SITES
        self._changed = threading.Condition()
        self._sightings: dict[tuple[str, str], Sighting] = {}
        self._uplinks: dict[str, Uplink] = {}
        self._problem: Problem | None = None
        self._is_subscribed = False
        self._refused: str | None = None
        self._retained_at = 0.0
        """Time at which the last retained message, or the acknowledgement of the subscription, arrived."""
        self._version = 0
        settings = ConnectionSettings(
            client_id=f"{prefix.replace('/', '-')}-top-{secrets.token_hex(8)}",
            keepalive_s=15,
            session_expiry_s=0,
            receive_maximum=256,
            maximum_packet_size=_DOCUMENT_BYTES,
            keeps_session=False,
        )
        self._network = Network(address, settings, self, PAUSES_S)

    def __enter__(self) -> Discovery:
        self._network.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._network.stop(5.0)

    @property
    def problem(self) -> str | None:
        """Why there is no connection to the broker now, as an error message; None if there is no problem."""
        return self._problem.sentence if self._problem else None

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

    def wait(self, timeout_s: float) -> bool:
        """Waits up to ``timeout_s`` seconds for a change. :return: whether there was a change."""
        with self._changed:
            version = self._version
            return self._changed.wait_for(lambda: self._version != version, timeout_s)

    def settle(self, timeout_s: float) -> None:
        """Waits for the retained messages. MQTT doesn't mark the last retained message, so this method waits
        until no retained message has arrived for a short time; other messages don't prolong the wait.

        :raises BrokerError: no connection within ``timeout_s``, or the broker refuses the subscription.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_subscribed or self._problem or self._refused, timeout_s)
            self._check_heard()
            give_up_at = time.monotonic() + timeout_s
            while not self._is_complete():
                left_s = min(self._retained_at + _CALM_S, give_up_at) - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)

    def _check_heard(self) -> None:
        if self._refused or not self._is_subscribed:
            raise BrokerError(self._refused or self.problem or f"The broker at {self._address} is silent.")

    def _is_complete(self) -> bool:
        return self._is_one and any(len(one.documents) == len(KINDS) for one in self._sightings.values())

    # The listener, on the network thread

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        with self._changed:
            self._problem = None
            self._note()
        filters = [f"{base}/{kind}" for base in self._bases for kind in KINDS]
        filters += [self._link] if self._link else []
        link.subscribe([Subscription(one, every_time=True) for one in filters])

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        if message.qos:
            link.ack(message.mid)
        if self._link is not None and matches(self._link, message.topic):
            self._note_uplink(message.topic.split("/")[1], bytes(message.payload), bool(message.retain))
            return
        base, _, kind = message.topic.rpartition("/")
        if kind not in KINDS or not any(matches(one, base) for one in self._bases):
            return
        levels = base.split("/")
        site, node = None if self._link is None else levels[1], levels[-1]
        if levels[-2:-1] == [POOL.rstrip("/")]:
            node = POOL + node
        elif node == POOL.rstrip("/"):  # a reserved name
            return
        key = (site or "", node)
        try:
            document = parse_json(decode_text(bytes(message.payload))) if message.payload else None
        except InvalidRequest:
            return
        with self._changed:
            if not message.payload:  # the retained message was cleared
                self._forget(key, kind)
            elif isinstance(document, dict) and not self._is_one_too_many(key):
                sighting = self._sightings.setdefault(key, Sighting(node, site=site))
                sighting.documents[kind] = document
                sighting.heard_at[kind] = time.time()
            if message.retain:
                self._retained_at = time.monotonic()
            self._note()

    def _is_one_too_many(self, key: tuple[str, str]) -> bool:
        is_new = key not in self._sightings
        is_too_many = is_new and len(self._sightings) >= self._most_nodes
        self._left_out = self._left_out or is_too_many
        return is_too_many

    def _note_uplink(self, site: str, payload: bytes, retained: bool) -> None:
        with self._changed:
            there = self._uplinks.get(site)
            if payload not in (b"0", b"1"):
                self._uplinks.pop(site, None)
            elif there is None and len(self._uplinks) == self._most_nodes:
                self._left_out = True
            elif there is None or there.is_up != (payload == b"1"):
                self._uplinks[site] = Uplink(payload == b"1", time.time(), retained)
            if retained:
                self._retained_at = time.monotonic()
            self._note()

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        """Nothing is published."""

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        with self._changed:
            self._is_subscribed = not all(failures)
            if all(failures):
                self._refused = (
                    f"The broker refuses the subscription to {self._bases[0]}/... "
                    f"({failures[0]}); its access list must allow it."
                )
            self._retained_at = time.monotonic()
            self._note()

    def lost(self, problem: Problem) -> None:
        with self._changed:
            self._problem = problem
            self._note()

    def _forget(self, key: tuple[str, str], kind: str) -> None:
        sighting = self._sightings.get(key)
        if sighting is not None:
            sighting.documents.pop(kind, None)
            sighting.heard_at.pop(kind, None)
            if not sighting.documents:
                del self._sightings[key]

    def _note(self) -> None:
        self._version += 1
        self._changed.notify_all()
