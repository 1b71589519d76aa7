"""provision/broker.py and the access list on a real mosquitto with mutual TLS: who gets in, who may what."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from edgeslm.cli.provision.broker import PROFILES, broker_settings
from edgeslm.client import Client
from tests.support.nodes import TASKS, Node, fake_configuration, write_bundle
from tests.support.sites import Site, run

APPS = (
    "desk:hall/triage,cancel=hall,read=factory/+/log/label",
    "phone:server/triage,hall/say,health=hall",
    "sensor:write=factory/+/log,write=factory/shift/end",
    "judge:feedback=hall,results=hall/triage",
    "operator:read=edgeslm/v1/+/state,read=edgeslm/v1/+/info,read=edgeslm/v1/+/health",
    # Sees and says everything: what arrives where is asked of it.
    "root:read=#,write=#,read=$SYS/#",
)
BASE, SERVER = "edgeslm/v1/hall", "edgeslm/v1/server"


def configurations(folder: Path) -> dict[str, dict[str, Any]]:
    """Two nodes: ``hall`` watches topics and passes on to ``server`` what it isn't sure of."""
    hall = fake_configuration("", folder)
    hall["tasks"] = {
        **TASKS,
        "topic": {
            "kind": "classify",
            "labels": ["normal", "critical"],
            "stages": ["small", "node:server/triage"],
            "threshold": 0.999999,
        },
        "digest": {"kind": "summarize", "model": "small"},
    }
    hall["replies"] = [f"{BASE}/res/#", "apps/+/answers"]
    hall["routes"] = [
        {"from": "factory/+/log", "task": "triage", "to": "factory/{{ topic[1] }}/log/label"},
        {"from": "factory/+/text", "task": "digest", "window": {"on": "factory/shift/end"}},
        {"from": "yard/#", "task": "say", "name": "yard", "to": "notes/{{ payload.kind }}"},
    ]
    server: dict[str, Any] = {
        "models": {"small": {"bundle": str(write_bundle(folder / "s"))}},
        "tasks": {"triage": TASKS["triage"]},
        "prepare": "never",
        "state_dir": str(folder / "state-of-server"),
        "replies": [f"{SERVER}/res/#"],
    }
    return {"hall": {key: value for key, value in hall.items() if key != "node"}, "server": server}


class Operation(NamedTuple):
    """``who`` publishes to a topic, or would read what is published to it."""

    who: str
    does: Literal["writes", "reads"]
    topic: str


ALLOWED = [
    Operation("hall", "reads", f"{BASE}/req/triage"),
    Operation("hall", "reads", f"{BASE}/cancel"),
    Operation("hall", "reads", f"{BASE}/feedback"),
    Operation("hall", "writes", f"{BASE}/state"),
    Operation("hall", "writes", f"{BASE}/dead"),
    Operation("hall", "writes", f"{BASE}/res/triage/desk/1/stream"),
    Operation("hall", "writes", "apps/tablet/answers"),
    Operation("hall", "writes", "apps/tablet/answers/stream"),
    Operation("hall", "reads", "factory/3/log"),
    Operation("hall", "writes", "factory/3/log/label"),
    Operation("hall", "reads", "factory/shift/end"),
    Operation("hall", "writes", f"{BASE}/event/digest"),
    Operation("hall", "reads", "yard/gate/1"),
    Operation("hall", "writes", "notes/smell"),
    Operation("hall", "writes", f"{SERVER}/req/triage"),
    Operation("hall", "reads", f"{SERVER}/res/triage/hall/app-1"),
    Operation("hall", "writes", f"{SERVER}/cancel"),
    Operation("desk", "writes", f"{BASE}/req/triage"),
    Operation("desk", "reads", f"{BASE}/res/triage/desk/1"),
    Operation("desk", "writes", f"{BASE}/cancel"),
    Operation("desk", "reads", "factory/3/log/label"),
    Operation("phone", "writes", f"{BASE}/req/say"),
    Operation("phone", "writes", f"{SERVER}/req/triage"),
    Operation("phone", "reads", f"{SERVER}/res/triage/phone/1/stream"),
    Operation("phone", "reads", f"{BASE}/health"),
    Operation("sensor", "writes", "factory/3/log"),
    Operation("judge", "writes", f"{BASE}/feedback"),
    Operation("judge", "reads", f"{BASE}/res/triage"),
    Operation("server", "reads", f"{SERVER}/req/triage"),
    Operation("server", "writes", f"{SERVER}/res/triage/hall/app-1"),
]
FORBIDDEN = [
    Operation("hall", "reads", f"{SERVER}/req/triage"),
    Operation("hall", "reads", f"{SERVER}/res/triage/phone/1"),
    Operation("hall", "writes", f"{SERVER}/res/triage/phone/1"),
    Operation("hall", "writes", f"{SERVER}/state"),
    Operation("hall", "writes", f"{SERVER}/req/say"),
    Operation("hall", "writes", f"{SERVER}/ctl/reload"),
    Operation("hall", "reads", f"{BASE}/ctl/reload"),
    Operation("hall", "writes", "factory/3/log"),
    Operation("hall", "writes", "factory/3/log/label/more"),
    Operation("hall", "writes", "notes/smell/more"),
    Operation("hall", "writes", "homeassistant/sensor/x/config"),
    Operation("hall", "reads", "house/alarm"),
    Operation("hall", "writes", "apps/tablet/other"),
    Operation("server", "reads", f"{BASE}/req/triage"),
    Operation("server", "reads", "factory/3/log"),
    Operation("server", "writes", f"{BASE}/res/triage/desk/1"),
    Operation("desk", "writes", f"{BASE}/req/say"),
    Operation("desk", "writes", f"{SERVER}/req/triage"),
    Operation("desk", "reads", f"{BASE}/req/triage"),
    Operation("desk", "reads", f"{BASE}/res/triage/phone/1"),
    Operation("desk", "reads", f"{BASE}/res/triage"),
    Operation("desk", "writes", f"{BASE}/res/triage/phone/1"),
    Operation("desk", "writes", f"{BASE}/feedback"),
    Operation("desk", "writes", f"{BASE}/ctl/reload"),
    Operation("phone", "writes", f"{BASE}/cancel"),
    Operation("phone", "writes", f"{BASE}/req/triage"),
    Operation("sensor", "reads", "factory/3/log"),
    Operation("sensor", "writes", "factory/3/log/label"),
    Operation("sensor", "writes", f"{BASE}/state"),
    Operation("judge", "reads", f"{BASE}/res/say"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("acl")
    site = Site(folder, configurations(folder), APPS)
    site.broker.start()
    yield site
    site.broker.stop()


_numbers = itertools.count(1)


def happens(site: Site, operation: Operation, version: int) -> bool:
    """Whether the message arrives."""
    who, does, topic = operation
    text = f"message {next(_numbers)}"
    writes, reads = (who, "root") if does == "writes" else ("root", who)
    with site.app(writes, version=version) as writer, site.app(reads, topic, version=version) as reader:
        writer.publish(topic, text)
        reader.subscribe("$SYS/broker/uptime")  # its acknowledgement comes behind what was published before
        return any(heard.payload == text.encode() for heard in reader.untaken(topic))


def test_the_tables_are_long_enough() -> None:
    assert len(ALLOWED) >= 20
    assert len(FORBIDDEN) >= 20
    assert not set(ALLOWED) & set(FORBIDDEN)


@pytest.mark.parametrize("version", [5, 4])
def test_20_operations_are_allowed_and_20_forbidden(site: Site, version: int) -> None:
    """With the generated files; 4 is MQTT 3.1.1. ``pytest -s`` prints the table."""
    wrong = []
    for operation, expected in [*((one, True) for one in ALLOWED), *((one, False) for one in FORBIDDEN)]:
        happened = happens(site, operation, version)
        print(f"{operation.who:7} {operation.does:6} {operation.topic:40} {'yes' if happened else 'no'}")
        if happened != expected:
            wrong.append((operation, happened))
    assert not wrong


def connects(site: Site, context: ssl.SSLContext, client_id: bytes = b"x") -> bool:
    """Whether the broker lets a client of that TLS in: a CONNECT without a login is answered with success."""
    rest = bytes.fromhex("00044d5154540402001e") + len(client_id).to_bytes(2, "big") + client_id
    packet = b"\x10" + bytes([len(rest)]) + rest
    try:
        with (
            socket.create_connection(("localhost", site.broker.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(packet)
            return connection.recv(4) == bytes.fromhex("20020000")
    except OSError:
        return False


def trusting(site: Site, certificate: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=site.folder / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


def test_only_who_has_a_certificate_of_the_site_gets_in(site: Site, tmp_path: Path) -> None:
    run("provision", "keys", tmp_path / "other", "--node", "hall")
    assert connects(site, trusting(site, site.folder / "hall.pem"))
    assert not connects(site, trusting(site, None)), "a client without a certificate"
    assert not connects(site, trusting(site, tmp_path / "other" / "hall.pem")), "one of another authority"
    assert not connects(site, trusting(site, site.folder / "broker.pem")), "the broker's own"


def test_nodes_and_apps_do_their_work_with_the_generated_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request, a stream, routes, an escalation, the commands that look: all that the list has to allow."""
    configured = configurations(tmp_path)
    site = Site(tmp_path, configured, APPS)
    site.broker.start()
    try:
        with (
            Node(tmp_path / "server", {"node": "server", **configured["server"]}),
            Node(tmp_path / "hall", {"node": "hall", **configured["hall"]}),
            site.app("root", "#") as root,
        ):
            root.take_state(SERVER, "online")
            root.take_state(BASE, "online")
            login = site.login("phone")
            pieces: list[str] = []
            with Client(
                login["url"],
                "hall",
                name="phone",
                ca_file=Path(login["ca_file"]),
                cert_file=Path(login["cert_file"]),
                key_file=Path(login["key_file"]),
            ) as phone:
                said = phone.request(
                    "say", "two words", timeout=60, on_chunk=lambda piece: pieces.append(piece.text)
                )
                assert said.status == "ok"
                assert pieces
            root.publish(f"{BASE}/req/topic", "text", reply_to=f"{BASE}/res/topic/root")
            passed_on = root.take(f"{BASE}/res/topic/root").json
            assert passed_on["result"]["stage"] == "node:server/triage"
            with site.app("sensor") as sensor:
                sensor.publish("factory/3/log", "smells of burnt oil")
                root.take("factory/3/log/label")
                root.publish("factory/3/text", "one")
                sensor.publish("factory/shift/end", "")
                root.take(f"{BASE}/event/digest")
            assert not root.untaken("+/v1/+/dead")
            run("check", tmp_path / "hall" / "config.yaml", "--connect")
            seen = site.login("operator")
            run("top", "--broker", seen["url"], "--once", "--json", "--ca-file", seen["ca_file"],
                "--cert-file", seen["cert_file"], "--key-file", seen["key_file"])  # fmt: skip
            assert '"online"' in capsys.readouterr().out
    finally:
        site.broker.stop()


def test_another_login_cannot_take_over_the_session_of_a_node(tmp_path: Path) -> None:
    """mosquitto lets any client in under any client id: that of a node is one that nobody can guess."""
    configured = {"hall": configurations(tmp_path)["hall"]}
    configured["hall"]["tasks"].pop("topic")
    site = Site(tmp_path, configured, ("desk:hall/triage", APPS[-1]))
    site.broker.start()
    try:
        with Node(tmp_path / "hall", {"node": "hall", **configured["hall"]}), site.app("root", "#") as root:
            root.take_state(BASE, "online")
            assert connects(site, trusting(site, site.folder / "desk.pem"), b"edgeslm-hall")
            root.publish(f"{BASE}/req/say", "still there?", reply_to=f"{BASE}/res/say/root")
            assert root.take(f"{BASE}/res/say/root").json["status"] == "ok"
            assert not [heard for heard in root.untaken(f"{BASE}/state") if heard.json["state"] == "offline"]
    finally:
        site.broker.stop()


def test_a_client_that_is_taken_out_of_the_list_may_do_nothing(tmp_path: Path) -> None:
    """What to do about a stolen key: the broker reads the list again on SIGHUP."""
    configured = {"hall": configurations(tmp_path)["hall"]}
    site = Site(tmp_path, configured, ("desk:hall/triage", APPS[-1]))
    site.broker.start()
    try:
        asks = Operation("desk", "writes", f"{BASE}/req/triage")
        assert happens(site, asks, 5)
        config = tmp_path / "hall" / "config.yaml"
        run("provision", "acl", config, "--app", APPS[-1], "--out", site.folder / "access.acl", "--force")
        os.kill(site.broker.pid, signal.SIGHUP)
        with site.app("root") as root:
            root.wait_until(lambda: "Reloading config" in site.broker.log, "the broker reads its list again")
        assert not happens(site, asks, 5)
    finally:
        site.broker.stop()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_gets_certificates_in_place_of_passwords(profile: str) -> None:
    settings = broker_settings(profile, Path("/etc/mosquitto/site"), 8884)
    active = [line for line in settings.splitlines() if line and not line.startswith("#")]
    assert [line for line in active if line.split()[0] in ("listener", "password_file", "cafile")] == [
        "listener 8884",
        "cafile /etc/mosquitto/site/ca.pem",
    ]
    assert "require_certificate true" in active
    assert active.count("allow_anonymous false") == 1
    assert "max_queued_messages 10000" in active
