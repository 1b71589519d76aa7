"""Checks of the sections that open connections or ports: broker, console and HTTP API. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Final

from edgeslm.config.schema import Config
from edgeslm.config.sections import Broker
from edgeslm.config.web_sections import Api, Console, Teach, WebServer
from edgeslm.config.yaml_source import Path

Fault = tuple[Path, str]

_PRIVATE: Final = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fc00::/7", "::1"))
)
"""Networks that no router of the internet forwards."""


def network_faults(config: Config) -> Iterator[Fault]:
    """Yields every fault, with the path of the key to change."""
    yield from _broker_faults(config.broker)
    if config.console is not None:
        yield from _console_faults(config.console)
        if config.console.teach is not None:
            yield from _teach_faults(config.console.teach, config)
    if config.api is not None:
        yield from _api_faults(config.api, config)


def _broker_faults(broker: Broker) -> Iterator[Fault]:
    if broker.password_file and not broker.username:
        yield ("broker", "username"), "missing: a password_file needs a username"
    yield from _pair_faults("broker", broker)
    for key in ("ca_file", "cert_file", "key_file"):
        if getattr(broker, key) and not broker.tls:
            yield ("broker", key), "certificates need TLS: let url begin with mqtts://"


def _pair_faults(name: str, section: Broker | WebServer) -> Iterator[Fault]:
    if section.cert_file and not section.key_file:
        yield (name, "key_file"), "missing: cert_file needs the key that belongs to it"
    if section.key_file and not section.cert_file:
        yield (name, "cert_file"), "missing: key_file needs the certificate that belongs to it"


def _server_faults(name: str, server: WebServer) -> Iterator[Fault]:
    yield from _pair_faults(name, server)
    if server.is_secure or server.is_local:
        return
    wide = [peer for peer in server.peers if not _is_of_containers(peer)]
    if wide:
        sentence = (
            f"{wide[0]} is more than the containers of one machine, and without TLS the token can be read on "
            "the network: name their network, a private one of /16 or smaller (IPv6: /64), or add cert_file "
            "and key_file"
        )
        yield (name, "peers"), sentence
    elif not server.peers:
        sentence = (
            "without TLS the token can be read on the network: add cert_file and key_file, or https: true "
            "if a TLS proxy stands in front, or peers if only containers on this machine connect"
        )
        yield (name, "listen"), sentence


def _is_of_containers(peer: str) -> bool:
    """Whether this can be a network of containers: a private one that isn't a whole site's."""
    network = ip_network(peer)
    if network.prefixlen < (16 if network.version == 4 else 64):
        return False
    return any(network.version == one.version and network.subnet_of(one) for one in _PRIVATE)  # type: ignore[arg-type]


def console_notes(config: Config) -> list[str]:
    """What ``edgeslm check`` says of a console that is open to programs on this machine."""
    console = config.console
    if console is None or not console.ingress:
        return []
    return [
        "console.ingress: every program on this machine can use the console without a token, since peers "
        f"has {peer}; name the address of the proxy's container, or leave ingress out and use the token"
        for peer in console.peers
        if ip_network(peer).is_loopback
    ]


def _console_faults(console: Console) -> Iterator[Fault]:
    yield from _server_faults("console", console)
    networks = [ip_network(peer) for peer in console.peers]
    if console.ingress and not (networks and all(one.num_addresses == 1 for one in networks)):
        sentence = (
            "lets everybody in who can connect: let peers be the proxy's address alone, as [172.30.32.2]"
        )
        yield ("console", "ingress"), sentence


def _teach_faults(teach: Teach, config: Config) -> Iterator[Fault]:
    path: Path = ("console", "teach")
    if config.journal.keep == "none":
        yield path, "keeps messages on this disk, and journal says none; remove one of them"
    if config.signing.refuses:
        yield path, "heads that are taught here have no signature, and signing refuses such; remove it"
    for index, name in enumerate(teach.tasks):
        task = config.tasks.get(name)
        if task is None:
            known = ", ".join(config.tasks)
            yield (*path, "tasks", index), f"no task is called {name!r}; there are: {known}"
        elif task.kind not in (None, "classify"):
            yield (*path, "tasks", index), f"{name} is of kind {task.kind}; only classify can be taught here"
    if teach.encoder is not None and config.models and teach.encoder not in config.models:
        known = ", ".join(config.models)
        yield (*path, "encoder"), f"no model is called {teach.encoder!r}; there are: {known}"


def _api_faults(api: Api, config: Config) -> Iterator[Fault]:
    yield from _server_faults("api", api)
    if api.anonymous and not api.is_local:
        yield ("api", "anonymous"), "is for loopback alone; give clients on the network tokens"
    if config.console is not None and api.address == config.console.address:
        yield ("api", "listen"), "is the console's address; choose another port"
    for name in () if isinstance(api.mcp, bool) else api.mcp:
        if name not in config.tasks:
            yield ("api", "mcp"), f"no task is called {name!r}; there are: {', '.join(config.tasks)}"
