"""Brokers that the service's sandbox keeps it from."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest

from edgeslm.cli.doctor.connection import ADDRESSES, judge_reach
from edgeslm.cli.doctor.probes import SERVICE, Probes
from edgeslm.config.loader import parse_config
from tests.support.boards import FakeProbes, put
from tests.support.paths import ROOT

CONFIG = parse_config(
    "{node: n, broker: {url: 'mqtt://broker.example'}, tasks: {t: {kind: search, knowledge: [k]}},"
    " knowledge: {k: {path: /srv/k}}}"
)


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        (["192.168.1.9"], False),
        (["203.0.113.4"], True),
        (["203.0.113.4", "fd00::1"], False),
        (["2001:db8::1"], True),
        ([], False),
    ],
)
def test_a_public_address_is_told_where_the_service_is_installed(
    tmp_path: Path, addresses: list[str], told: bool
) -> None:
    probes = FakeProbes(tmp_path, addresses=addresses)
    assert judge_reach(CONFIG, probes) == []
    put(tmp_path, f"usr/lib/{SERVICE}", "")
    found = judge_reach(CONFIG, probes)
    assert [finding.level for finding in found] == ["warn"] * told
    assert all(f"IPAddressAllow={addresses[0]}" in finding.advice for finding in found)


@pytest.mark.parametrize(
    ("servers", "told"), [("9.9.9.9", True), ("192.168.1.1", False), ("127.0.0.53", False), ("", False)]
)
def test_public_servers_for_names_are_told_where_a_name_is_looked_up(
    tmp_path: Path, servers: str, told: bool
) -> None:
    put(tmp_path, f"usr/lib/{SERVICE}", "")
    put(tmp_path, "etc/resolv.conf", f"search lan\n{servers and 'nameserver ' + servers}\n")
    found = judge_reach(CONFIG, FakeProbes(tmp_path))
    assert [finding.text.split(",")[0] for finding in found] == [f"names are looked up at {servers}"] * told


def test_the_unit_lets_through_what_is_said_here() -> None:
    text = (ROOT / "firmware-config/systemd/edgeslm.service.d/10-edgeslm.conf").read_text()
    (line,) = re.findall(r"(?m)^IPAddressAllow=(.*)$", text)
    words = {"localhost": ["127.0.0.0/8", "::1/128"], "link-local": ["169.254.0.0/16", "fe80::/64"]}
    allowed = [network for word in line.split() for network in words.get(word, [word])]
    assert {ipaddress.ip_network(network) for network in allowed} == set(ADDRESSES)


def test_names_are_looked_up() -> None:
    assert "127.0.0.1" in Probes().look_up("127.0.0.1")
    assert Probes().look_up("no-such-host.invalid") == []
