"""Doctor checks of the broker: secrets, connection, and whether the service's sandbox allows connecting."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.doctor.finding import Finding
from edgeslm.cli.doctor.probes import Probes
from edgeslm.config.loader import Broker, Config
from edgeslm.errors import EdgeslmError
from edgeslm.hardware import board
from edgeslm.mqtt.certificate_expiry import ending_soon


def judge_secrets(broker: Broker) -> list[Finding]:
    findings = []
    for key in ("password_file", "ca_file", "cert_file", "key_file", "client_id_file"):
        file: Path | None = getattr(broker, key)
        if file is None:
            continue
        try:
            with file.open("rb"):
                mode = file.stat().st_mode
        except OSError as error:
            text = f"{key} {file}: {error.strerror}"
            findings.append(Finding("secrets", "bad", text, "correct the path, or let this user read it"))
            continue
        if key in ("password_file", "key_file", "client_id_file") and mode & 0o007:
            text = f"{key} {file} can be read by every user"
            findings.append(Finding("secrets", "warn", text, f"chmod o= {file}"))
    findings += [Finding("secrets", "warn", sentence) for sentence in ending_soon(broker)]
    if broker.password_file and not broker.tls and broker.host not in ("localhost", "127.0.0.1", "::1"):
        text = "the password crosses the network in clear"
        findings.append(Finding("secrets", "warn", text, "use mqtts:// in url"))
    return findings


def judge_broker(config: Config, probes: Probes) -> list[Finding]:
    advice = "see that it runs and that url, username and password_file are right"
    try:
        probe = probes.ask_broker(config)
    except EdgeslmError as error:
        return [Finding("broker", "bad", str(error), advice)]
    if probe.problems:
        return [Finding("broker", "bad", problem, advice) for problem in probe.problems]
    return [
        Finding("broker", "ok", note)
        for note in probe.notes or [f"{config.broker.host}:{config.broker.port} answers"]
    ]


ADDRESSES = [
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/64"),
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    )
]
"""Networks that the service's systemd unit allows (``IPAddressAllow=``). A test checks that this list equals
the unit's list."""


def judge_reach(config: Config, probes: Probes) -> list[Finding]:
    """Returns findings if the service can't reach the broker or the name servers, because its systemd unit
    allows only private networks."""
    if not probes.has_service():
        return []
    host, said = config.broker.host, []
    known = probes.look_up(host)
    if addresses := _out_of_reach(known):
        said.append((f"{host} is {addresses[0]}", addresses[0]))
    resolvers = board.read_text(probes.root / "etc/resolv.conf") or ""
    servers = re.findall(r"(?m)^nameserver +([\w.:]+)", resolvers)
    if host not in known and (hidden := _out_of_reach(servers)):
        said.append((f"names are looked up at {hidden[0]}", hidden[0]))
    return [
        Finding(
            "broker address",
            "warn",
            f"{text}, which the service's sandbox keeps it from",
            f"sudo systemctl edit edgeslm, and write: [Service] IPAddressAllow={address}",
        )
        for text, address in said
    ]


def _out_of_reach(addresses: Sequence[str]) -> Sequence[str]:
    """All ``addresses`` if the service can reach none of them, else an empty list."""
    read = [ipaddress.ip_address(text) for text in addresses]
    return [] if any(address in network for address in read for network in ADDRESSES) else addresses
