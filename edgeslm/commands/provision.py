"""``edgeslm provision``: keys and certificates of a site, its broker's access list and configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.commands.parts import add_part
from edgeslm.commands.screen import print_error, say

if TYPE_CHECKING:
    from edgeslm.provision.access import User

SUMMARY = "make keys, certificates and the broker's access list"
EXAMPLE = "edgeslm provision keys site --broker-host broker.local --node press-hall-4 --app desk"

_APP = "NAME:TASK,..."
_APP_HELP = (
    "an app, and what it may: tasks to ask (NODE/TASK, or TASK of the only node), cancel=NODE, "
    "feedback=NODE, health=NODE, control=NODE/COMMAND, results=NODE/TASK, read=FILTER, write=FILTER"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    parts = command.add_subparsers(title="what to make", metavar="WHAT", required=True)

    _add_keys(
        add_part(
            parts,
            "keys",
            _keys,
            "make a private authority, and certificates for broker, nodes and apps",
            EXAMPLE,
        )
    )

    example = "edgeslm provision acl config.yaml --app desk:triage,read=factory/+/log/label --out access.acl"
    sub = add_part(
        parts, "acl", _acl, "make the broker's access list from the configurations of nodes", example
    )
    sub.add_argument("configs", type=Path, nargs="+", metavar="CONFIG")
    sub.add_argument("--app", action="append", default=[], metavar=_APP, help=_APP_HELP)
    sub.add_argument("--out", type=Path, metavar="FILE", help="write it there, and not on standard output")
    sub.add_argument("--force", action="store_true", help="write over the file")
    sub.add_argument("--json", action="store_true", help="print who may what, for other programs")

    example = "edgeslm provision broker site config.yaml --app desk:triage --at /etc/mosquitto/edgeslm"
    sub = add_part(
        parts, "broker", _broker, "write mosquitto's configuration and access list beside the keys", example
    )
    sub.add_argument("folder", type=Path, metavar="DIR", help="where edgeslm provision keys made the keys")
    sub.add_argument("configs", type=Path, nargs="+", metavar="CONFIG")
    sub.add_argument("--app", action="append", default=[], metavar=_APP, help=_APP_HELP)
    sub.add_argument("--at", type=Path, metavar="DIR", help="where the broker will have that folder")
    sub.add_argument("--port", type=int, default=8883)
    sub.add_argument(
        "--profile",
        default="strict",
        choices=("strict", "balanced", "sqlite-2.1"),
        help="when the broker saves (docs/mqtt.md, The broker; default: strict)",
    )
    sub.add_argument("--force", action="store_true", help="write over the files")


def _add_keys(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "folder", type=Path, metavar="DIR", help="is made if it isn't there; what it has is kept"
    )
    sub.add_argument(
        "--broker-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name or address that clients call the broker by; may be given more than once",
    )
    sub.add_argument("--node", action="append", default=[], metavar="NAME")
    sub.add_argument("--app", action="append", default=[], metavar="NAME")
    sub.add_argument("--days", type=_days, default=825, help="how long they are valid (default: 825)")
    sub.add_argument("--force", action="store_true", help="make these anew, with new keys")
    sub.add_argument(
        "--renew",
        type=_days,
        nargs="?",
        const=90,
        metavar="DAYS",
        help="renew all certificates of the folder that end within so many days (90), for the same keys",
    )
    sub.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    return int(arguments.act(arguments))


def _days(text: str) -> int:
    """An argparse type: a whole number of days that a certificate can be valid."""
    if not text.isdecimal() or not 1 <= int(text) <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of days from 1 to 36500")
    return int(text)


def _keys(arguments: argparse.Namespace) -> int:
    from edgeslm.errors import ProvisionError
    from edgeslm.fields import node_name
    from edgeslm.provision.certificates import KeyFolder, make_client_id

    for node in arguments.node:
        try:
            node_name(node)
        except ValueError as error:
            raise ProvisionError(f"--node {node}: {error}") from None
    folder = KeyFolder(
        arguments.folder, days=arguments.days, force=arguments.force, renew_within_days=arguments.renew
    )
    made = folder.make(arguments.broker_host, [*arguments.node, *arguments.app])
    for node in arguments.node:
        make_client_id(arguments.folder, node, replace=arguments.force)
    if arguments.json:
        say(
            json.dumps([{**asdict(one), "ends": one.ends.isoformat()} for one in made], default=str, indent=2)
        )
        return 0
    for one in made:
        say(f"{one.what:8} {one.file} (until {one.ends}), key {one.key}")
    say(
        f"Keep {arguments.folder}/ca.key off the broker and off the nodes: who has it can be anybody. "
        "Each client gets ca.pem and its own files: "
        "broker.ca_file, cert_file, key_file and, of a node, client_id_file."
    )
    return 0


def _users(configs: Sequence[Path], apps: Sequence[str]) -> list[User]:
    from edgeslm.config import load_config
    from edgeslm.provision.access import app_user, node_user, too_wide

    loaded = [load_config(file) for file in configs]
    users = [node_user(config) for config in loaded] + [app_user(text, loaded) for text in apps]
    for prefix in dict.fromkeys(config.prefix for config in loaded):
        for user in users:
            for grant in too_wide(user, prefix):
                print_error(
                    f"warning: {user.name} may {grant.access} {grant.filter} ({grant.why}), and so the "
                    "requests and commands of every node; name more of the topic"
                )
    return users


def _acl(arguments: argparse.Namespace) -> int:
    from edgeslm.provision.access import render
    from edgeslm.provision.files import write_private

    users = _users(arguments.configs, arguments.app)
    text = render(users)
    if arguments.json:
        text = (
            json.dumps({user.name: [asdict(one) for one in user.grants] for user in users}, indent=2) + "\n"
        )
    if arguments.out is None:
        say(text.rstrip("\n"))
    else:
        write_private(arguments.out, text.encode(), replace=arguments.force)
        say(f"{arguments.out}: {len(users)} clients; the broker's user must be able to read it")
    return 0


def _broker(arguments: argparse.Namespace) -> int:
    from edgeslm.provision.access import render
    from edgeslm.provision.broker import ACCESS, SETTINGS, broker_settings
    from edgeslm.provision.files import write_private

    text = render(_users(arguments.configs, arguments.app))
    settings = broker_settings(arguments.profile, arguments.at or arguments.folder.absolute(), arguments.port)
    for name, content in ((ACCESS, text), (SETTINGS, settings)):
        write_private(arguments.folder / name, content.encode(), replace=arguments.force)
    at = arguments.at or arguments.folder
    say(
        f"{arguments.folder}/{SETTINGS} and {ACCESS} are made. The broker needs them in {at} with ca.pem, "
        "broker.pem and broker.key, all readable by its user: link or copy "
        f"{SETTINGS} to /etc/mosquitto/conf.d/edgeslm.conf and restart it."
    )
    return 0
