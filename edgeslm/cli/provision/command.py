"""``edgeslm provision``: arguments and output of its subcommands keys, acl, broker, site and tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.cli.parts import add_part
from edgeslm.cli.screen import print_error, say

if TYPE_CHECKING:
    from edgeslm.cli.provision.access import User

SUMMARY = "make keys, certificates, access lists, API tokens and the bridge to a hub"
EXAMPLE = "edgeslm provision keys site --broker-host broker.local --node press-hall-4 --app desk"

_APP = "NAME:TASK,..."
_APP_HELP = (
    "an app and its grants: tasks for requests (NODE/TASK, or TASK of the only node), cancel=NODE, "
    "feedback=NODE, health=NODE, control=NODE/COMMAND, results=NODE/TASK, read=FILTER, write=FILTER, "
    "pool=POOL/TASK, cancel=pool/POOL; dispatcher=POOL for edgeslm dispatch"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    parts = command.add_subparsers(title="what to make", metavar="WHAT", required=True)

    _add_keys(
        add_part(
            parts,
            "keys",
            _keys,
            "make a private certificate authority, and certificates for broker, nodes and apps",
            EXAMPLE,
        )
    )

    example = "edgeslm provision acl config.yaml --app desk:triage,read=factory/+/log/label --out access.acl"
    sub = add_part(
        parts, "acl", _acl, "make the broker's access list from the configurations of nodes", example
    )
    _add_users(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="write to this file instead of standard output")
    sub.add_argument("--force", action="store_true", help="overwrite the file")
    sub.add_argument("--json", action="store_true", help="print the access list as JSON")

    example = "edgeslm provision broker site config.yaml --app desk:triage --at /etc/mosquitto/edgeslm"
    sub = add_part(
        parts, "broker", _broker, "write mosquitto's configuration and access list next to the keys", example
    )
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of edgeslm provision keys")
    _add_users(sub)
    sub.add_argument("--at", type=Path, metavar="DIR", help="path of that folder on the broker")
    sub.add_argument("--port", type=int, default=8883, help="the broker's port (default: 8883)")
    sub.add_argument(
        "--profile",
        default="strict",
        choices=("strict", "balanced", "sqlite-2.1"),
        help="when the broker saves (docs/reference/mqtt.md, The broker; default: strict)",
    )
    sub.add_argument("--force", action="store_true", help="overwrite the files")

    example = "edgeslm provision site hub config.yaml --site plant-a --hub mqtts://hub.example.com"
    _add_site(
        add_part(parts, "site", _site, "make the bridge of a site's broker to a hub, and its login", example)
    )

    example = "edgeslm provision tokens config.yaml --client home-assistant:assist --client desk"
    sub = add_part(parts, "tokens", _tokens, "make tokens for clients of a node's HTTP API", example)
    sub.add_argument("config", type=Path, metavar="CONFIG", help="configuration of the node")
    sub.add_argument(
        "--client",
        action="append",
        required=True,
        metavar="NAME[:TASK,...]",
        help="a client, and what it may use: tasks and model:NAME (default: all); may be repeated",
    )
    sub.add_argument(
        "--out", type=Path, metavar="FILE", help="the token file (default: that of the configuration)"
    )
    sub.add_argument("--force", action="store_true", help="make new tokens for clients that have one")


def _add_users(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("configs", type=Path, nargs="*", metavar="CONFIG", help="configurations of nodes")
    sub.add_argument("--app", action="append", default=[], metavar=_APP, help=_APP_HELP)
    sub.add_argument(
        "--include",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="add the clients of this list, such as that of a site (edgeslm provision site)",
    )


def _add_site(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "folder", type=Path, metavar="DIR", help="folder of edgeslm provision keys with the hub's keys"
    )
    sub.add_argument(
        "configs", type=Path, nargs="+", metavar="CONFIG", help="configurations of the site's nodes"
    )
    sub.add_argument(
        "--site", required=True, metavar="NAME", help="its topics are below site/NAME/ at the hub"
    )
    sub.add_argument("--hub", required=True, metavar="URL", help="mqtts://HOST[:PORT]")
    sub.add_argument("--at", type=Path, metavar="DIR", help="path of its files on the site's broker")
    sub.add_argument(
        "--up",
        action="append",
        default=[],
        metavar="FILTER",
        help="more topics to send to the hub, such as factory/+/log/label",
    )
    sub.add_argument("--results", action="store_true", help="also send results of requests to the hub")
    sub.add_argument(
        "--allow-down",
        action="append",
        default=[],
        metavar="NODE/TASK",
        help="a task that accepts requests from the hub",
    )
    sub.add_argument(
        "--guard",
        action="append",
        default=[],
        metavar="FILTER",
        help="more topics to protect from a compromised hub; those of nodes and routes always are",
    )
    sub.add_argument(
        "--per-s",
        type=_amount,
        metavar="N",
        help="messages per second to queue while the hub can't be reached (default: 1)",
    )
    sub.add_argument("--hours", type=_amount, metavar="N", help="hours to queue them (default: 8)")
    sub.add_argument("--message-bytes", type=_count, metavar="N", help="their size (default: 1024)")
    sub.add_argument(
        "--save-s",
        type=_count,
        metavar="N",
        help="seconds between saves of the queue (default: as in the broker's profile)",
    )
    sub.add_argument(
        "--days", type=_days, default=825, help="how long the certificate is valid (default: 825)"
    )
    sub.add_argument("--force", action="store_true", help="overwrite the files; keys are kept")


def _add_keys(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, metavar="DIR", help="created if missing; existing files are kept")
    sub.add_argument(
        "--broker-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name or address by which clients reach the broker; may be repeated",
    )
    sub.add_argument("--node", action="append", default=[], metavar="NAME", help="a node; may be repeated")
    sub.add_argument("--app", action="append", default=[], metavar="NAME", help="an app; may be repeated")
    sub.add_argument("--days", type=_days, default=825, help="how long they are valid (default: 825)")
    sub.add_argument("--force", action="store_true", help="replace these, with new keys")
    sub.add_argument(
        "--renew",
        type=_days,
        nargs="?",
        const=90,
        metavar="DAYS",
        help="renew all certificates of the folder that end within DAYS (default: 90), with the same keys",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    return int(arguments.act(arguments))


def _days(text: str) -> int:
    """An argparse type: a whole number of days that a certificate can be valid."""
    if not text.isdecimal() or not 1 <= int(text) <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of days from 1 to 36500")
    return int(text)


def _amount(text: str) -> float:
    """An argparse type: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and up to a million")
    return value


def _count(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 100_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0 and up to a hundred million")
    return int(text)


def _keys(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.provision.certificates import KeyFolder, make_client_id
    from edgeslm.config.fields import node_name
    from edgeslm.errors import ProvisionError

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


def _users(configs: Sequence[Path], apps: Sequence[str], includes: Sequence[Path]) -> list[User]:
    from edgeslm.cli.provision.access import app_user, node_user, too_wide
    from edgeslm.config.loader import load_config
    from edgeslm.errors import ProvisionError

    if not (configs or apps or includes):
        raise ProvisionError("who may use the broker? name configurations of nodes, --app or --include")
    loaded = [load_config(file) for file in configs]
    users = [node_user(config) for config in loaded] + [app_user(text, loaded) for text in apps]
    users += [user for file in includes for user in _included(file)]
    for prefix in dict.fromkeys(config.prefix for config in loaded):
        for user in users:
            for grant in too_wide(user, prefix):
                print_error(
                    f"warning: {user.name} may {grant.access} {grant.filter} ({grant.why}), and so the "
                    "requests and commands of every node; name more of the topic"
                )
    return users


def _included(file: Path) -> list[User]:
    from edgeslm.cli.provision.access import parse_access
    from edgeslm.errors import ProvisionError

    try:
        return parse_access(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProvisionError(f"--include {file}: it can't be read: {error}") from None
    except ProvisionError as error:
        raise ProvisionError(f"--include {file}: {error}") from None


def _acl(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.provision.access import render
    from edgeslm.cli.provision.files import write_private

    users = _users(arguments.configs, arguments.app, arguments.include)
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
    from edgeslm.cli.provision.access import render
    from edgeslm.cli.provision.broker import ACCESS, SETTINGS, broker_settings
    from edgeslm.cli.provision.files import write_private

    text = render(_users(arguments.configs, arguments.app, arguments.include))
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


def _site(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.provision.access import render
    from edgeslm.cli.provision.bridge import BridgeQueue, bridge_settings, hub_access, plan_bridge, unsent
    from edgeslm.cli.provision.certificates import AUTHORITY, KeyFolder, make_client_id
    from edgeslm.cli.provision.files import keep_private
    from edgeslm.config.loader import load_config
    from edgeslm.errors import ProvisionError

    folder, configs = arguments.folder, [load_config(file) for file in arguments.configs]
    bridge = plan_bridge(
        arguments.site,
        arguments.hub,
        configs,
        up=arguments.up,
        results=arguments.results,
        down=arguments.allow_down,
        guard=arguments.guard,
    )
    if not (folder / f"{AUTHORITY}.key").is_file():
        raise ProvisionError(
            f"{folder} has no keys of a hub: make them with edgeslm provision keys {folder} --broker-host "
            f"{bridge.hub.host}"
        )
    given = {name: getattr(arguments, name) for name in ("per_s", "hours", "message_bytes", "save_s")}
    waiting = BridgeQueue(**{name: value for name, value in given.items() if value is not None})
    at = arguments.at or folder.absolute()
    bridge_settings(bridge, at, "", waiting)  # raises before anything is written
    user = bridge.user
    KeyFolder(folder, days=arguments.days).make([], [user])
    client_id = make_client_id(folder, user).read_text("utf-8").strip()
    for name, content in (
        (f"{user}.conf", bridge_settings(bridge, at, client_id, waiting).encode()),
        (f"{user}-hub.pem", (folder / f"{AUTHORITY}.pem").read_bytes()),
        (f"{user}.acl", render([hub_access(bridge)]).encode()),
    ):
        keep_private(folder / name, content, replace=arguments.force)
    for sentence in unsent(bridge, configs):
        print_error(f"note: {sentence}")
    say(
        f"The site's broker needs {user}.conf in /etc/mosquitto/conf.d, and {user}.pem, {user}.key and "
        f"{user}-hub.pem in {at}, all readable by its user; restart it. Then recreate the access list of the "
        f"hub's broker: edgeslm provision broker {folder} --include {folder / user}.acl, with the .acl files "
        "of other sites."
    )
    return 0


def _tokens(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.provision.files import write_private
    from edgeslm.cli.provision.tokens import add_clients, parse_client
    from edgeslm.config.loader import load_config
    from edgeslm.errors import ProvisionError

    config = load_config(arguments.config)
    if config.api is None:
        raise ProvisionError(f"{arguments.config} has no section api, so the node has no HTTP API")
    clients = [parse_client(text, config) for text in arguments.client]
    if len(dict(clients)) < len(clients):
        raise ProvisionError("two clients have the same name; give each a name of its own")
    file = (arguments.out or config.api.tokens or config.state_dir / "api-tokens").resolve()
    try:
        text = file.read_text("utf-8") if file.exists() else ""
        owned = next(path for path in (file, *file.parents) if path.exists()).stat()
    except (OSError, UnicodeDecodeError) as error:
        raise ProvisionError(f"{file} can't be read: {getattr(error, 'strerror', None) or error}") from None
    new = add_clients(text, dict(clients), str(file), replace=arguments.force)
    mode = 0o600 | (owned.st_mode & 0o040 if file.exists() else 0)  # a group that may read it still may
    write_private(file, new.encode(), replace=True, mode=mode, owner=(owned.st_uid, owned.st_gid))
    for name, tasks in clients:
        say(f"{name} may use {'all tasks and models' if tasks is None else ', '.join(tasks)}")
    say(
        f"The tokens are in {file}: the second word of each client's line. The node's user must be able to "
        "read it; a running node reads it after SIGHUP."
    )
    return 0
