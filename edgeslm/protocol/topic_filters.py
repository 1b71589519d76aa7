"""MQTT topics as plain text: checking names and filters, matching, overlap, the topics of a node.

Knows the rules of the MQTT specification (MQTT 5, section 4.7) and nothing of clients, brokers or
messages. Faults come back as sentences, so that a configuration can collect them and a request can
raise them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

DEFAULT_PREFIX = "edgeslm"
"""First level of every node's topics, unless a site chooses another."""

MAX_TOPIC_BYTES = 65535
"""MQTT 5, section 1.5.4: a string is at most this long in UTF-8."""

MAX_LEVELS = 200
"""mosquitto ends the connection of a client that names a deeper topic; so it does for the characters that
MQTT 5, section 1.5.4, advises against. Resent after each reconnect, one such topic would keep a node off the
bus for good."""

NODE_CHANNELS = ("state", "info", "health", "req", "res", "event", "dead", "cancel", "feedback", "ctl")
"""First level below a node's base topic, as protocol version 1 names them."""

SITES = "site"
"""First level of what comes from other brokers: a site's topics are below ``site/<name>/`` at its hub."""

_PLAIN_NAME = re.compile(r"[\w.-]{1,64}(/[\w.-]{1,64}){0,20}", re.ASCII)
"""Names in which nothing can be wrong: nearly all. Every request comes by here, more than once."""

_UNWANTED = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""Control characters, and code points that are no characters."""


def base_topic(prefix: str, node: str) -> str:
    """The topic below which everything of one node lives."""
    return f"{prefix}/v1/{node}"


def site_topic(site: str, topic: str) -> str:
    """A topic of a site's broker as the hub has it."""
    return f"{SITES}/{site}/{topic}"


def site_fault(name: str) -> str | None:
    """What is wrong with the name of a site, as the end of a sentence; None if it is fine."""
    fine = re.fullmatch(r"[a-z0-9-]{1,59}", name)
    return None if fine else "may hold a-z, 0-9 and - only, 1 to 59 of them"


def link_topic(site: str) -> str:
    """Whether the hub has a connection with a site: ``1`` or ``0``, retained."""
    return site_topic(site, "link")


def topic_name_fault(topic: str) -> str | None:
    """What is wrong with a topic to publish to, as a sentence without the topic; None if it is fine.

    Stricter than MQTT: an empty level, a leading ``$`` and control characters are refused, since they are
    nearly always a mistake (or an attack) in a topic that was built from data.
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
    """What is wrong with a subscription, as a sentence without the filter; None if it is fine."""
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
        return "holds a control character" if is_control else "holds a code point that is no character"
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
    """Whether a message on ``topic`` reaches a subscription to ``topic_filter``.

    ``a/#`` matches ``a`` too (4.7.1.2), and a leading wildcard never matches ``$...`` (4.7.2).
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
    """Whether some topic fits both patterns.

    A pattern is a list of levels in which ``+`` stands for any one level and ``#``, here at any place, for
    any number of levels, none included. ``topic_filter.split("/")`` is such a pattern.
    """
    for first, second in ((one, other), (other, one)):
        if first and first[0].startswith("$") and second and second[0] in ("+", "#"):
            return False

    # from the ends to the beginnings: row[j] says whether one[i:] and other[j:] fit
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
    """1 to 268,435,455 (MQTT 5 section 3.8.2.1.2), the same at every start of the daemon.

    Messages wait in the broker's session with the identifiers of the start before, and the configuration may
    have changed since.
    """
    return zlib.crc32(topic_filter.encode()) % 268_435_455 + 1
