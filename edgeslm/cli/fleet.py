"""``edgeslm fleet``: lists all nodes of a broker, or of all sites of a hub; forgets nodes that are gone."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING

from edgeslm.cli.listening import (
    PATIENCE_S,
    add_broker_arguments,
    add_listening_arguments,
    address_of,
    discovery_of,
    nothing_heard,
)
from edgeslm.cli.parts import add_part
from edgeslm.cli.screen import print_error, say
from edgeslm.errors import BrokerError, InvalidRequest, plural
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.protocol.topic_filters import base_topic, filter_fault
from edgeslm.telemetry.overview import plain

if TYPE_CHECKING:
    from edgeslm.telemetry.fleet import FleetNode

SUMMARY = "list all nodes of a broker: versions, models, pools, load, alerts; forget a node that is gone"
HOME_ASSISTANT = "homeassistant"
NAME = r"(pool/)?[a-z0-9-]{1,64}"
RUNNING = ("starting", "online", "draining")
EXAMPLE = "edgeslm fleet list --broker mqtt://broker.local"


def add_arguments(command: argparse.ArgumentParser) -> None:
    parts = command.add_subparsers(title="what to do", metavar="WHAT", required=True)
    about = (
        "list nodes with versions, models and alerts (status 1: no node found, or --check found a problem)"
    )
    sub = add_part(parts, "list", _list, about, EXAMPLE)
    add_listening_arguments(sub)
    sub.add_argument("--node", help="only this node, or pool/NAME for a pool's dispatcher")
    sub.add_argument("--pool", metavar="NAME", help="the members of this pool, and its dispatcher")
    sub.add_argument(
        "--outdated",
        action="store_true",
        help="only nodes older than the newest one, or too different from this edgeslm",
    )
    sub.add_argument(
        "--attention", action="store_true", help="only nodes that are down or stale, or have drift or alerts"
    )
    sub.add_argument(
        "--check", action="store_true", help="status 1 if a listed node needs attention, or models differ"
    )
    sub.add_argument("--json", action="store_true", help="print the inventory, for other programs")

    about = "clear all that a node that is gone keeps retained at the broker: state, info, health, discovery"
    sub = add_part(parts, "forget", _forget, about, "edgeslm fleet forget press-hall-4 --broker broker.local")
    sub.add_argument("name", metavar="NODE", help="the node, or pool/NAME for a pool's dispatcher")
    add_broker_arguments(sub)
    sub.add_argument(
        "--discovery",
        metavar="PREFIX",
        default=HOME_ASSISTANT,
        help="prefix of Home Assistant's discovery topics (default: %(default)s)",
    )
    sub.add_argument("--force", action="store_true", help="also if the node says that it is running")
    sub.add_argument("--json", action="store_true", help="print the cleared topics as JSON")


def run(arguments: argparse.Namespace) -> int:
    return int(arguments.act(arguments))


def _list(arguments: argparse.Namespace) -> int:
    from edgeslm.telemetry.fleet import differences, inventory, is_outdated, newest, table
    from edgeslm.telemetry.overview import Painter

    heard = _heard(arguments)
    version = newest(heard)
    listed = [
        one
        for one in heard
        if (arguments.node is None or one.name == arguments.node)
        and (arguments.pool is None or _is_of(one, arguments.pool))
        and (not arguments.outdated or one.skew is not None or is_outdated(one, version))
        and (not arguments.attention or one.needs_a_look)
    ]
    if arguments.json:
        say(json.dumps(inventory(listed), indent=2, ensure_ascii=False))
    else:
        is_plain = not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))
        width = shutil.get_terminal_size((120, 24)).columns
        title = f"fleet at {plain(arguments.broker.rpartition('@')[2])}"
        say("\n".join(table(listed, width=width, title=title, paint=Painter(not is_plain))))
    is_wrong = any(one.needs_a_look for one in listed) or bool(differences(listed))
    return int(arguments.check and is_wrong)


def _forget(arguments: argparse.Namespace) -> int:
    from edgeslm.client.listening import Listening
    from edgeslm.telemetry.discovery import entity_filter

    base = base_topic(arguments.prefix, arguments.name)
    filters = [f"{base}/#", entity_filter(arguments.discovery, base)]
    if not re.fullmatch(NAME, arguments.name) or any(map(filter_fault, filters)):
        raise BrokerError(f"{plain(arguments.name)} can't be a node's name.")
    with Listening(address_of(arguments), filters) as messages:
        found = messages.retained(PATIENCE_S)
        state = _state_in(found.get(f"{base}/state", b""))
        if state in RUNNING and not arguments.force:
            raise BrokerError(f"The node {plain(arguments.name)} is {state}; stop it first, or add --force.")
        messages.clear(sorted(found), PATIENCE_S)
    if arguments.json:
        say(json.dumps(sorted(found)))
    else:
        say("\n".join([*map(plain, sorted(found)), f"{plural(len(found), 'topic')} cleared"]))
    return 0


def _state_in(payload: bytes) -> str | None:
    try:
        found = parse_json(decode_text(payload))
    except InvalidRequest:
        return None
    state = found.get("state") if isinstance(found, dict) else None
    return state if isinstance(state, str) else None


def _is_of(entry: FleetNode, pool: str) -> bool:
    return entry.name == f"pool/{pool}" or (entry.pool is not None and entry.pool["name"] == pool)


def _heard(arguments: argparse.Namespace) -> list[FleetNode]:
    """Finds all nodes, including nodes that the command's options exclude from the list.

    :raises BrokerError: the broker is unreachable or refuses the subscription; the node that the user named
        was not found; or the user named no node and none was found.
    """
    from edgeslm.telemetry.fleet import entry_of

    address = address_of(arguments)
    # Listen to all nodes, whichever are listed: --outdated compares with the others.
    with discovery_of(arguments, address) as discovery:
        discovery.settle(PATIENCE_S)
        sightings, uplinks = discovery.sightings(), discovery.uplinks()
        if discovery.shortfall:
            print_error(f"warning: {discovery.shortfall}")
    now = time.time()
    entries = [
        entry_of(
            one.node,
            one.documents,
            now,
            site=one.site,
            unreachable=one.site in uplinks and not uplinks[one.site].is_up,
        )
        for one in sightings
    ]
    if not any(arguments.node in (None, one.name) for one in entries):
        raise nothing_heard(arguments, address)
    return entries
