"""Topic names and filters: validation, matching and overlap by MQTT 5, section 4.7.

The checks return faults as text, so that the configuration can collect them and the parser of a request can
raise them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

DEFAULT_PREFIX = "edgeslm"
"""Default first level of every node's topics."""

MAX_TOPIC_BYTES = 65535
"""Maximum size of a topic in bytes, which MQTT 5, section 1.5.4, sets for all UTF-8 strings."""

MAX_LEVELS = 200
"""Largest number of levels in a topic. The broker mosquitto disconnects a client that uses a topic with more
levels, or with characters that MQTT 5, section 1.5.4, advises against. A message with a topic that the broker
refuses would be sent again after each reconnect, and the node would never stay online."""

NODE_CHANNELS = ("state", "info", "health", "req", "res", "event", "dead", "cancel", "feedback", "ctl")
"""Topic levels directly below a node's base topic in protocol version 1."""

SITES = "site"
"""First level of the topics on the hub's broker that are bridged from a site's broker; these topics begin
with ``site/<name>/``."""

_PLAIN_NAME = re.compile(r"[\w.-]{1,64}(/[\w.-]{1,64}){0,20}", re.ASCII)
"""Pattern that accepts most valid topic names and no invalid name. The match is faster than the full check,
and the topics of each request are checked more than once."""

_UNWANTED = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""Matches a control character or a Unicode noncharacter."""


def base_topic(prefix: str, node: str) -> str:
    """The base topic of a node; all topics of the node are below it."""
    return f"{prefix}/v1/{node}"


def site_topic(site: str, topic: str) -> str:
    """The topic on the hub's broker that corresponds to ``topic`` on a site's broker."""
    return f"{SITES}/{site}/{topic}"


def site_fault(name: str) -> str | None:
    """What is wrong with a site's name, as the end of a sentence; None if valid."""
    fine = re.fullmatch(r"[a-z0-9-]{1,59}", name)
    return None if fine else "may hold a-z, 0-9 and - only, 1 to 59 of them"


def link_topic(site: str) -> str:
    """The topic of the retained message that says whether the hub is connected to a site, with the payload
    ``1`` or ``0``."""
    return site_topic(site, "link")


def topic_name_fault(topic: str) -> str | None:
    """What is wrong with a topic to publish to, as the end of a sentence; None if valid.

    The check is stricter than MQTT: it also refuses an empty level, a leading ``$`` and control characters.
    In a topic built from data, an empty level, a leading ``$`` or a control character is nearly always a
    mistake or an attack.
    """
    if _PLAIN_NAME.fullmatch(topic):
        return None
    if not topic:
        return "is empty"
    if "\0" in topic:
        return "holds a NUL character"
    if "+" in topic or "#" in topic:
        return "holds a wildcard (+ or #), which only a subscription may"
    if topic.startswith("$"):
        return "begins with $, which belongs to the broker"
    if "" in topic.split("/"):
        return "has an empty level: take out the leading, trailing or doubled slash"
    return _text_fault(topic)


def filter_fault(topic_filter: str) -> str | None:
    """What is wrong with a topic filter, as the end of a sentence; None if valid."""
    if not topic_filter:
        return "is empty"
    if "\0" in topic_filter:
        return "holds a NUL character"
    levels = topic_filter.split("/")
    if levels[0] == "$share":
        return "is a shared subscription, which is not supported: leave out $share and the group"
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != len(levels) - 1):
            return "has a # that is not a whole level at the end, as in factory/#"
        if "+" in level and level != "+":
            return "has a + that is not a whole level, as in factory/+/log"
    return _text_fault(topic_filter)


def _text_fault(text: str) -> str | None:
    if (found := _UNWANTED.search(text)) is not None:
        is_control = found[0] < "\xa0"
        return "holds a control character" if is_control else "holds an invalid code point"
    if text.count("/") >= MAX_LEVELS:
        return f"has more than {MAX_LEVELS} levels"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "holds a character that can't be written as UTF-8"
    if len(encoded) > MAX_TOPIC_BYTES:
        return f"is longer than {MAX_TOPIC_BYTES} bytes"
    return None


def matches(topic_filter: str, topic: str) -> bool:
    """Whether ``topic`` matches ``topic_filter``.

    By MQTT 5, ``a/#`` also matches ``a`` (section 4.7.1.2), and a leading wildcard never matches a topic that
    begins with ``$`` (section 4.7.2).
    """
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some topic matches both patterns.

    A pattern is a list of levels, such as ``topic_filter.split("/")``. In a pattern, ``+`` stands for one
    level, and ``#`` for zero or more levels at any position.
    """
    for first, second in ((one, other), (other, one)):
        if first and first[0].startswith("$") and second and second[0] in ("+", "#"):
            return False

    # From the ends backwards: row[j] says whether one[i:] and other[j:] overlap.
    row: list[bool] = []
    for i in range(len(one), -1, -1):
        below, row = row, [False] * (len(other) + 1)
        for j in range(len(other), -1, -1):
            mine, theirs = one[i : i + 1], other[j : j + 1]
            if not mine and not theirs:
                row[j] = True
            elif "#" in mine:
                row[j] = below[j] or (bool(theirs) and row[j + 1])
            elif "#" in theirs:
                row[j] = row[j + 1] or (bool(mine) and below[j])
            elif mine and theirs:
                row[j] = (mine == theirs or "+" in (*mine, *theirs)) and below[j + 1]
    return row[0]


def subscription_identifier(topic_filter: str) -> int:
    """Subscription Identifier of a filter, 1 to 268,435,455 (MQTT 5 section 3.8.2.1.2), stable over restarts.

    The identifier must be stable, since messages queued in the broker's session carry the identifiers of the
    previous start.
    """
    return zlib.crc32(topic_filter.encode()) % 268_435_455 + 1
