"""Bridge from a site's broker to its hub: the topics sent in each direction, and the access list at the hub.

One list of topics yields both the bridge settings of the site's broker (mosquitto 2.0) and the access list of
the bridge's login at the hub. At the hub, a site's topics are below ``site/<name>/``. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeslm.cli.provision.access import COMMANDS, Grant, User
from edgeslm.cli.provision.certificates import check_host
from edgeslm.config.route_sections import Route
from edgeslm.config.schema import Config
from edgeslm.errors import BrokerError, ProvisionError
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.protocol.topic_filters import (
    SITES,
    filter_fault,
    link_topic,
    matches,
    overlap,
    site_fault,
    site_topic,
)
from edgeslm.protocol.topics import Topics
from edgeslm.telemetry.discovery import route_filter

KEEPALIVE_S = 30
"""Keep-alive interval; the hub detects a dead connection after one and a half intervals."""
RESTART_S = (5, 60)
"""Shortest and longest delay before mosquitto reconnects; the delay is random and grows with each attempt."""
PER_S = 1.0
HOURS = 8.0
MESSAGE_BYTES = 1024
LEAST_QUEUED = 10_000, 64 * 1024 * 1024
"""Queue limits of the shipped configurations (messages, bytes), which a bridge never lowers."""
MOST_QUEUED = 10_000_000

ASIDE = "from-hub/"
"""Topic prefix to which the site's broker diverts unwanted messages from the hub; no client may read these
topics."""
_GUARDS = f"what a hub that was taken over sends to these topics goes to {ASIDE}"

_DOCUMENTS = ("state", "info", "health")
_RESULTS = ("res/#", "pool/+/res/#")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One ``topic`` line of a bridge, which maps ``filter`` at the site to ``site/<name>/<filter>`` at the
    hub.

    ``is_same``: whether the topic is the same at site and hub, as for reply topics of requests from the hub.
    ``is_guard``: whether the line diverts the hub's messages that match ``filter`` to ``from-hub/``.
    """

    filter: str
    direction: Literal["out", "in"]
    qos: int
    why: str
    is_same: bool = False
    is_guard: bool = False


@dataclass(frozen=True, slots=True)
class BridgeQueue:
    """Size of the site's queue while the hub can't be reached.

    The queue has room for ``hours`` hours of ``per_s`` messages per second, each of ``message_bytes`` bytes.
    ``save_s`` is the time between two saves to disk; None keeps the value in the broker's profile.
    """

    per_s: float = PER_S
    hours: float = HOURS
    message_bytes: int = MESSAGE_BYTES
    save_s: int | None = None

    @property
    def messages(self) -> int:
        """Length of the queue, in messages.

        :raises ProvisionError: the queue is too long for a broker's memory.
        """
        wanted = math.ceil(self.per_s * self.hours * 3600)
        if wanted > MOST_QUEUED:
            raise ProvisionError(
                f"{self.per_s:g} messages a second for {self.hours:g} h are {wanted}, and the broker keeps "
                f"them in memory: {MOST_QUEUED} at most; name less, or filters that bring less"
            )
        return max(LEAST_QUEUED[0], wanted)

    @property
    def bytes(self) -> int:
        return max(LEAST_QUEUED[1], self.messages * self.message_bytes)


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge between a site and its hub."""

    site: str
    hub: BrokerAddress
    topics: tuple[Mapping, ...]

    @property
    def user(self) -> str:
        """The bridge's login at the hub, which is the name in its certificate."""
        return bridge_user(self.site)

    def at_hub(self, mapping: Mapping) -> str:
        return mapping.filter if mapping.is_same else site_topic(self.site, mapping.filter)


def bridge_user(site: str) -> str:
    return f"site-{site}"


def plan_bridge(
    site: str,
    hub: str,
    configs: Sequence[Config],
    *,
    up: Sequence[str] = (),
    results: bool = False,
    down: Sequence[str] = (),
    guard: Sequence[str] = (),
) -> Bridge:
    """Plans the bridge of a site from ``configs``, the configurations of the site's nodes.

    :param up: topic filters of further messages to send to the hub (state, info, health and events are always
        sent).
    :param results: whether results of requests are sent to the hub.
    :param down: tasks (``NODE/TASK``) that accept requests from the hub; the replies are sent to the hub.
    :param guard: further topic filters to protect: messages of the hub that match them don't arrive. The
        topics of nodes, the source topics of routes and those of Home Assistant discovery are always
        protected, except for requests to the tasks in ``down``.
    :raises ProvisionError: a name or filter is invalid, a filter in ``up`` would send requests or commands to
        the hub, or a filter in ``guard`` covers a topic of ``down``.
    """
    if fault := site_fault(site):
        raise ProvisionError(f"--site {site}: a site's name {fault}")
    prefixes = tuple(dict.fromkeys(config.prefix for config in configs))
    topics = [*_said(prefixes), *(_results(prefixes) if results else ()), *_down(site, configs, down)]
    for one in up:
        _check_up(one, prefixes, topics)
        topics.append(Mapping(one, "out", 1, "named (--up)"))
    asked = [site_topic(site, one.filter) for one in topics if one.direction == "in"]
    topics += _guards(asked, prefixes, configs, guard)
    for mapping in topics:
        if _has_space(mapping.filter):
            raise ProvisionError(
                f"the topic {mapping.filter!r} has white space in it, which no bridge can map"
            )
    return Bridge(site, _address(hub), tuple(topics))


def _address(url: str) -> BrokerAddress:
    try:
        address = BrokerAddress.parse(url)
    except BrokerError as error:
        raise ProvisionError(f"--hub: {error}") from None
    if not address.tls:
        raise ProvisionError("--hub: a site's bridge speaks TLS alone: write it as mqtts://hub.example.com")
    if address.login.username is not None:
        raise ProvisionError("--hub: leave out the user: the bridge's certificate is its login")
    check_host(address.host)
    return address


def _said(prefixes: Sequence[str]) -> Iterator[Mapping]:
    for prefix in prefixes:
        every, pools = Topics("+", prefix).base, Topics.of_pool("+", prefix).base
        for document in _DOCUMENTS:
            # Only the last message counts, and mosquitto sends retained ones with each connection. At QoS 1
            # it would also queue them again with each attempt to connect.
            yield Mapping(f"{every}/{document}", "out", 0, "what nodes say of themselves: the last of each")
            yield Mapping(f"{pools}/{document}", "out", 0, "what dispatchers say for their pools")
        for base in (every, pools):
            yield Mapping(f"{base}/dead", "out", 1, "requests given up")
        yield Mapping(f"{every}/event/#", "out", 1, "results of routes that have no topic of their own")


def _results(prefixes: Sequence[str]) -> Iterator[Mapping]:
    for prefix in prefixes:
        every = Topics("+", prefix).base
        head = every.removesuffix("+")
        yield Mapping(f"{every}/{_RESULTS[0]}", "out", 1, "results of requests (--results)")
        yield Mapping(f"{head}{_RESULTS[1]}", "out", 1, "results of requests (--results)")


def _down(site: str, configs: Sequence[Config], tasks: Sequence[str]) -> Iterator[Mapping]:
    nodes = {config.node: config for config in configs}
    for text in dict.fromkeys(tasks):
        node, _, task = text.partition("/")
        if node not in nodes or task not in nodes[node].tasks:
            raise ProvisionError(f"--allow-down {text}: no configuration has such a NODE/TASK")
        topics = Topics(node, nodes[node].prefix)
        replies = site_topic(site, topics.result(task))
        if not any(matches(one, f"{replies}/app/1") for one in nodes[node].replies):
            raise ProvisionError(
                f"--allow-down {text}: the node may not answer below {replies}, where those who ask at the "
                f"hub wait: add {site_topic(site, topics.result('#'))} to its replies"
            )
        why = f"requests from the hub (--allow-down {text})"
        yield Mapping(topics.request(task), "in", 1, why)
        yield Mapping(f"{replies}/#", "out", 1, why, is_same=True)


def _guards(
    down: Sequence[str], prefixes: Sequence[str], configs: Sequence[Config], named: Sequence[str]
) -> Iterator[Mapping]:
    """Yields mappings that divert unwanted messages of the hub (guards), since mosquitto 2.0 doesn't apply
    the access list to bridges.

    ``down`` are the topics on which messages from the hub are accepted; a guard on one of these topics would
    duplicate the messages.
    """
    guarded = [f"{prefix}/#" for prefix in prefixes]
    for one in named:
        if fault := filter_fault(one):
            raise ProvisionError(f"--guard {one!r}: the filter {fault}")
        if found := [asked for asked in down if matches(one, asked)]:
            raise ProvisionError(f"--guard {one!r}: {found[0]} may come down (--allow-down)")
        guarded.append(one)
    for config in configs:
        if config.discovery.prefix is not None:  # Home Assistant trusts these messages
            guarded.append(f"{config.discovery.prefix}/#")
        for route in config.routes:
            guarded += [one for one in _sources(route) if not any(matches(one, asked) for asked in down)]
    for one in dict.fromkeys(guarded):
        whole = [other for other in guarded if other != one and other[-1] == "#" and "+" not in other]
        if not any(matches(other, one) for other in whole):
            yield Mapping(one, "in", 0, _GUARDS, is_guard=True)


def _sources(route: Route) -> Iterator[str]:
    """Topic filters that a route reads. A level that contains spaces is replaced by ``+``, since mosquitto's
    bridge settings don't allow spaces in topics."""
    for source in (route.source, route.window.on if route.window is not None else None):
        if source is not None:
            yield "/".join("+" if _has_space(level) else level for level in source.split("/"))


def _has_space(text: str) -> bool:
    return any(character.isspace() for character in text)


def _check_up(one: str, prefixes: Sequence[str], topics: Sequence[Mapping]) -> None:
    if fault := filter_fault(one):
        raise ProvisionError(f"--up {one!r}: the filter {fault}")
    levels = one.split("/")
    if one.startswith("$"):
        raise ProvisionError(f"--up {one!r}: what begins with $ is the broker's own")
    for prefix in prefixes:
        for command in COMMANDS:
            asked = [*prefix.split("/"), "v1", "+", *command.split("/")]
            pooled = [*prefix.split("/"), "v1", "pool", "+", "req", "+"]
            if overlap(levels, asked) or overlap(levels, pooled):
                raise ProvisionError(
                    f"--up {one!r}: requests and commands stay at the site, and this takes {'/'.join(asked)} "
                    "along; name more of the topic"
                )
    if overlap(levels, [SITES, "#"]):
        raise ProvisionError(
            f"--up {one!r}: what is below {SITES}/ is of other sites; name more of the topic"
        )
    for there in topics:
        if there.direction == "out" and overlap(levels, there.filter.split("/")):
            raise ProvisionError(
                f"--up {one!r}: {there.filter} goes up already ({there.why}); what fits both would go twice"
            )


def unsent(bridge: Bridge, configs: Sequence[Config]) -> list[str]:
    """Warnings about routes whose results aren't sent to the hub, whose retained results may reach the hub
    repeatedly, or on whose input topics the hub may publish."""
    said = []
    down = [bridge.at_hub(one) for one in bridge.topics if one.direction == "in" and not one.is_guard]
    for config in configs:
        for route in config.routes:
            if any(matches(one, asked) for one in _sources(route) for asked in down):
                said.append(
                    f"{config.node}'s route {route.name} reads {route.source}, below which requests may come "
                    "down: a hub that was taken over reaches it; name more of the topic"
                )
            if route.task is None:
                continue
            target = route_filter(config.base, route)
            covering = [one for one in bridge.topics if one.direction == "out" and one.qos]
            if not any(overlap(one.filter.split("/"), target.split("/")) for one in covering):
                said.append(
                    f"the results of {config.node}'s route {route.name} stay at the site; --up {target} "
                    "sends them"
                )
            elif route.retain:
                said.append(
                    f"{config.node}'s route {route.name} has its results retained: mosquitto 2.0 queues the "
                    "last of each topic again with every try to reach the hub: expect repeats"
                )
    return said


def hub_access(bridge: Bridge) -> User:
    """The access that the site's bridge needs at the hub."""
    grants = [Grant("write", link_topic(bridge.site), "whether the site is connected")]
    for mapping in bridge.topics:
        if mapping.is_guard:
            continue
        access: Literal["read", "write"] = "write" if mapping.direction == "out" else "read"
        grants.append(Grant(access, bridge.at_hub(mapping), mapping.why))
    return User(bridge.user, tuple(grants))


_CONNECTION = """\
# The bridge of the site {site} to its hub, for mosquitto 2.0. Made by `edgeslm provision site`.
#
# Copy it to /etc/mosquitto/conf.d on the site's broker, where its name must sort after that of the broker's
# own settings (edgeslm.conf), and restart mosquitto: SIGHUP doesn't reload bridges.
# docs/guides/sites.md says what goes where.

# Queue while the hub can't be reached: {per_s:g} messages per second for {hours:g} h, {kib:g} KiB each.
# mosquitto has one limit for all clients.
max_queued_messages {messages}
max_queued_bytes {size}
{saving}
connection {user}
address {host}:{port}
bridge_cafile {folder}/{user}-hub.pem
bridge_certfile {folder}/{user}.pem
bridge_keyfile {folder}/{user}.key
bridge_tls_version tlsv1.2
bridge_insecure false

# MQTT 5 passes on Correlation Data, Response Topic and Message Expiry.
bridge_protocol_version mqttv50
try_private true

# The queue belongs to a session at this broker that never expires.
cleansession false
local_clientid {client_id}
remote_clientid {client_id}
start_type automatic
restart_timeout {first} {last}
keepalive_interval {keepalive}
bridge_attempt_unsubscribe false

# 1 while connected, 0 as the bridge's last will; at the hub and at the site.
notifications true
notifications_local_only false
notification_topic {link}
"""
_SAVING = """
# A power cut loses the last {lost_s} s of the queue. Each save writes the whole database.
autosave_on_changes false
autosave_interval {save_s}
"""


def bridge_settings(bridge: Bridge, folder: Path, client_id: str, waiting: BridgeQueue) -> str:
    """The bridge's part of the site's ``mosquitto.conf``; ``folder`` has the bridge's certificate and key.

    :raises ProvisionError: the path of ``folder`` isn't valid in that file.
    """
    if not str(folder).isprintable() or str(folder) != str(folder).strip():
        raise ProvisionError(f"the folder {str(folder)!r} can't stand in mosquitto's configuration")
    text = _CONNECTION.format(
        site=bridge.site,
        user=bridge.user,
        host=bridge.hub.host,
        port=bridge.hub.port,
        folder=folder,
        client_id=client_id,
        link=link_topic(bridge.site),
        per_s=waiting.per_s,
        hours=waiting.hours,
        kib=waiting.message_bytes / 1024,
        messages=waiting.messages,
        size=waiting.bytes,
        saving=""
        if waiting.save_s is None
        else _SAVING.format(save_s=waiting.save_s, lost_s=waiting.save_s + 1),
        first=RESTART_S[0],
        last=RESTART_S[1],
        keepalive=KEEPALIVE_S,
    )
    for why in dict.fromkeys(mapping.why for mapping in bridge.topics):
        text += f"\n# {why[0].upper()}{why[1:]}.\n"
        for mapping in bridge.topics:
            if mapping.why == why:
                line = f"topic {mapping.filter} {mapping.direction} {mapping.qos}"
                text += f"{line}{_prefixes(bridge, mapping)}\n"
    return text


def _prefixes(bridge: Bridge, mapping: Mapping) -> str:
    """Local and remote topic prefix at the end of a ``topic`` line."""
    if mapping.is_guard:
        return f' {ASIDE} ""'
    return "" if mapping.is_same else f' "" {site_topic(bridge.site, "")}'
