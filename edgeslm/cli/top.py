"""``edgeslm top``: shows one node, all nodes of a broker, or those of a hub's sites, live in the terminal."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgeslm.cli.listening import PATIENCE_S, add_listening_arguments, address_of, discovery_of, nothing_heard
from edgeslm.cli.screen import say
from edgeslm.cli.terminal import Terminal

if TYPE_CHECKING:
    from edgeslm.client.discovery import Discovery
    from edgeslm.telemetry.overview import NodeFigures

SUMMARY = "show nodes of a broker, or of all sites of a hub, live"
EXAMPLE = "edgeslm top --broker mqtt://broker.local --node press-hall-4"

REDRAW_S = 1.0
"""Seconds between two redraws while no messages arrive; each redraw updates the displayed age of the
values."""
KEY_S = 0.1
"""Longest time from a key to its effect, in seconds."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_listening_arguments(command)
    command.add_argument("--node", help="only this node, with all its figures")
    command.add_argument("--once", action="store_true", help="print once and exit")
    command.add_argument(
        "--json", action="store_true", help="print JSON lines, each a list of nodes with their figures"
    )


def run(arguments: argparse.Namespace) -> int:
    address = address_of(arguments)
    with discovery_of(arguments, address, arguments.node) as discovery:
        discovery.settle(PATIENCE_S)
        if arguments.once and not discovery.sightings():
            raise nothing_heard(arguments, address)
        if arguments.once:
            say(_render(discovery, arguments, str(address), None))
            return 0
        if arguments.json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            while True:
                say(_render(discovery, arguments, str(address), None))
                while not discovery.wait(3600.0):
                    pass
        with Terminal() as terminal:
            return _watch(discovery, arguments, str(address), terminal)


def _watch(discovery: Discovery, arguments: argparse.Namespace, broker: str, terminal: Terminal) -> int:
    """Draws the nodes until the user or a signal ends it. :return: the exit status."""
    while True:
        size = shutil.get_terminal_size()
        lines = _render(discovery, arguments, broker, size.lines - 1).split("\n")
        hints = "q: quit" if terminal.has_keys else "Ctrl-C: quit"
        if arguments.node is None:
            hints += "   --node NAME: all figures of one node"
        terminal.draw([*lines, *[""] * (size.lines - 1 - len(lines)), hints[: size.columns]])
        redraw_at = time.monotonic() + REDRAW_S
        while not discovery.wait(KEY_S) and time.monotonic() < redraw_at and not terminal.is_left():
            pass
        if terminal.is_left():
            return terminal.status


def _render(discovery: Discovery, arguments: argparse.Namespace, broker: str, height: int | None) -> str:
    from edgeslm.telemetry.overview import Painter, plain, screen, wrap

    nodes = _figures(discovery)
    if arguments.json:
        return json.dumps([asdict(node) for node in nodes])
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    title = f"edgeslm top  {broker}  {time.strftime('%H:%M:%S')}"
    size, paint = shutil.get_terminal_size((110, 24)), Painter(coloured)
    said: list[str] = []
    if discovery.problem:
        sentence = f"{plain(discovery.problem)} Trying again; what is below may be old."
        said = [paint(line, "bad") for line in wrap(sentence, size.columns)]
    if discovery.shortfall:
        said += [paint(line, "bad") for line in wrap(discovery.shortfall, size.columns)]
    room = None if height is None else height - len(said)
    lines = screen(nodes, width=size.columns, height=room, title=title, paint=paint)
    return "\n".join([lines[0], *said, *lines[1:]])


def _figures(discovery: Discovery) -> list[NodeFigures]:
    from edgeslm.telemetry.overview import figures_of

    now, uplinks = time.time(), discovery.uplinks()
    nodes = []
    for one in discovery.sightings():
        node = figures_of(one.node, one.documents, one.heard_at, now)
        if one.site is not None:
            uplink = uplinks.get(one.site)
            if uplink is None or uplink.is_up:
                node = node.of_site(one.site)
            else:
                node = node.of_site(one.site, uplink.since, uplink.since_before)
        nodes.append(node)
    return nodes
