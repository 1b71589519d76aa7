"""Command-line options for the broker: address and login, and which nodes to show."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.errors import BrokerError
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, site_fault, site_topic

if TYPE_CHECKING:
    from edgeslm.client.discovery import Discovery
    from edgeslm.mqtt.broker_address import BrokerAddress

BROKER_VARIABLE = "EDGESLM_BROKER"
NODE_VARIABLE = "EDGESLM_NODE"
"""Environment variables with the defaults of ``--broker`` and ``--node``."""
PATIENCE_S = 15.0
"""Timeout of the first connection, in seconds; later outages have no time limit."""


def add_broker_arguments(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    default = os.environ.get(BROKER_VARIABLE)
    command.add_argument(
        "--broker",
        type=with_scheme,
        default=default,
        required=required and default is None,
        metavar="URL",
        help=f"HOST[:PORT], mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; ${BROKER_VARIABLE} if left out",
    )
    command.add_argument("--prefix", default=DEFAULT_PREFIX, help="first level of the nodes' topics")
    command.add_argument("--username", help="name of the login")
    command.add_argument("--password-file", type=Path, help="file with the password")
    command.add_argument("--ca-file", type=Path, help="CA certificates that the broker's must be signed by")
    command.add_argument(
        "--cert-file", type=Path, help="client certificate for the login, as made by edgeslm provision"
    )
    command.add_argument("--key-file", type=Path, help="key of that certificate")


def with_scheme(text: str) -> str:
    """The address of a broker, also of a bare host."""
    return text if "://" in text else f"mqtt://{text}"


def add_listening_arguments(command: argparse.ArgumentParser) -> None:
    add_broker_arguments(command)
    command.add_argument("--sites", action="store_true", help="the nodes of all sites, at their hub's broker")
    command.add_argument("--site", metavar="NAME", help="only the nodes of this site, at its hub's broker")


def address_of(arguments: argparse.Namespace) -> BrokerAddress:
    """Address and login. :raises BrokerError: the address is invalid, or a login file can't be read."""
    from edgeslm.mqtt.broker_address import BrokerAddress, Login

    return BrokerAddress.parse(arguments.broker, Login.of(arguments))


def discovery_of(arguments: argparse.Namespace, address: BrokerAddress, node: str | None = None) -> Discovery:
    """A discovery of ``node``, or of all nodes if None; the caller must start the discovery.

    :raises BrokerError: the value of ``--site`` is invalid.
    """
    from edgeslm.client.discovery import Discovery
    from edgeslm.telemetry.overview import plain

    if arguments.site is not None and (fault := site_fault(arguments.site)):
        raise BrokerError(f"--site {plain(arguments.site)}: a site's name {fault}")
    return Discovery(address, arguments.prefix, node, site=_site(arguments))


def nothing_heard(arguments: argparse.Namespace, address: BrokerAddress) -> BrokerError:
    """Makes the error for a node that was not found. If ``arguments`` name no node, the error says that no
    node was found."""
    from edgeslm.telemetry.overview import plain

    who = "any node" if arguments.node is None else f"the node {plain(arguments.node)}"
    site, below = _site(arguments), f"{arguments.prefix}/v1"
    where = below if site is None else site_topic(site, below)
    return BrokerError(f"The broker at {address} has heard nothing of {who} below {where}.")


def _site(arguments: argparse.Namespace) -> str | None:
    from edgeslm.client.discovery import ALL_SITES

    return arguments.site or (ALL_SITES if arguments.sites else None)
