"""An onlooker at a real broker: what it hears, what it forgets, and what it says when nobody is there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.client.discovery import ALL_SITES, Discovery
from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port

BASE = "edgeslm/v1"


def discovery_of(broker: Mosquitto, node: str | None = None, site: str | None = None) -> Discovery:
    return Discovery(BrokerAddress.parse(broker.url), "edgeslm", node, site=site)


def until(discovery: Discovery, holds: Callable[[], bool]) -> None:
    while not holds():
        assert discovery.wait(WAIT_S), "waited in vain"


def test_it_hears_what_is_retained_and_what_comes(broker: Mosquitto) -> None:
    with App(broker.port) as app:
        app.publish(f"{BASE}/yard/state", {"state": "online"}, retain=True)
        app.publish(f"{BASE}/hall/state", {"state": "online"}, retain=True)
        app.publish(f"{BASE}/hall/health", {"queue": 1}, retain=True)
        app.publish(f"{BASE}/hall/req/triage", "no document", retain=True)
        with discovery_of(broker) as discovery:
            discovery.settle(WAIT_S)
            found = discovery.sightings()
            assert [one.node for one in found] == ["hall", "yard"]
            assert found[0].documents == {"state": {"state": "online"}, "health": {"queue": 1}}
            assert found[0].heard_at["health"] > 0
            app.publish(f"{BASE}/hall/health", {"queue": 2}, retain=True)
            until(discovery, lambda: discovery.sightings()[0].documents["health"] == {"queue": 2})


def test_a_busy_broker_does_not_prolong_the_wait_for_what_is_retained(broker: Mosquitto) -> None:
    done = threading.Event()

    def publish() -> None:
        with App(broker.port) as app:
            while not done.wait(0.05):
                app.publish(f"{BASE}/hall/health", {"queue": 1}, retain=True)

    sender = threading.Thread(target=publish)
    sender.start()
    try:
        with discovery_of(broker) as discovery:
            started_at = time.monotonic()
            discovery.settle(WAIT_S)
            assert time.monotonic() - started_at < WAIT_S / 2
    finally:
        done.set()
        sender.join(WAIT_S)


def test_one_node_alone(broker: Mosquitto) -> None:
    with App(broker.port) as app:
        for node in ("hall", "yard"):
            for kind in ("state", "info", "health"):
                app.publish(f"{BASE}/{node}/{kind}", {"of": node}, retain=True)
        with discovery_of(broker, "yard") as discovery:
            discovery.settle(WAIT_S)
            (found,) = discovery.sightings()
            assert (found.node, len(found.documents)) == ("yard", 3)


def test_what_is_no_document_is_ignored_and_an_empty_one_forgets(broker: Mosquitto) -> None:
    with App(broker.port) as app, discovery_of(broker) as discovery:
        discovery.settle(WAIT_S)
        for payload in (b"[]", b"\xff", b"{", b"[" * 5000, b'"x"'):
            app.publish(f"{BASE}/hall/health", payload)
        app.publish(f"{BASE}/hall/state", {"state": "online"}, retain=True)
        until(
            discovery,
            lambda: [one.documents for one in discovery.sightings()] == [{"state": {"state": "online"}}],
        )
        app.publish(f"{BASE}/hall/state", b"", retain=True)
        until(discovery, lambda: not discovery.sightings())


def test_it_goes_on_after_the_broker_was_away(broker: Mosquitto) -> None:
    with discovery_of(broker) as discovery:
        discovery.settle(WAIT_S)
        assert discovery.problem is None
        broker.kill()
        until(discovery, lambda: discovery.problem is not None)
        broker.start()
        until(discovery, lambda: discovery.problem is None)
        with App(broker.port) as app:
            app.publish(f"{BASE}/hall/state", {"state": "online"}, retain=True)
        until(discovery, lambda: len(discovery.sightings()) == 1)


def test_nodes_without_end_don_t_fill_the_memory(broker: Mosquitto) -> None:
    address = BrokerAddress.parse(broker.url)
    with App(broker.port) as app, Discovery(address, "edgeslm", most_nodes=20) as discovery:
        discovery.settle(WAIT_S)
        for number in range(20):
            app.publish(f"{BASE}/n{number}/state", "{}")
        until(discovery, lambda: len(discovery.sightings()) == 20)
        assert discovery.shortfall is None
        app.publish(f"{BASE}/n20/state", "{}")
        until(discovery, lambda: discovery.shortfall is not None)
        assert "More than 20 nodes" in str(discovery.shortfall)
        app.publish(f"{BASE}/n0/state", json.dumps({"state": "last"}))
        until(discovery, lambda: discovery.sightings()[0].documents["state"] == {"state": "last"})
        assert len(discovery.sightings()) == 20


def test_a_broker_that_isn_t_there_is_said_at_once() -> None:
    address = BrokerAddress.parse(f"mqtt://127.0.0.1:{free_port()}")
    with Discovery(address, "edgeslm") as discovery, pytest.raises(BrokerError, match="Nothing listens"):
        discovery.settle(WAIT_S)


def test_a_broker_that_lets_nobody_read_is_said(
    make_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    (tmp_path / "acl").write_text("topic write #\n")
    broker = make_broker(f"acl_file {tmp_path}/acl\n", folder=tmp_path)
    with discovery_of(broker) as discovery:
        try:
            discovery.settle(WAIT_S)
        except BrokerError as error:
            assert "access list" in str(error)
        assert discovery.sightings() == []  # mosquitto 2.0 grants what it doesn't bring


def test_at_a_hub_it_hears_the_nodes_of_sites_by_site_and_node(broker: Mosquitto) -> None:
    with App(broker.port) as app:
        for place in (
            "site/yard/edgeslm",
            "site/hall/edgeslm",
            "edgeslm",
            "site/hall/other",
            "site/a/b/edgeslm",
        ):
            app.publish(f"{place}/v1/press/state", {"at": place}, retain=True)
        app.publish("site/yard/edgeslm/v1/press/res/state", {"no": "document"}, retain=True)
        app.publish("site/yard/link", b"0", retain=True)
        with discovery_of(broker, site=ALL_SITES) as discovery:
            discovery.settle(WAIT_S)
            found = discovery.sightings()
            assert [(one.site, one.node) for one in found] == [("hall", "press"), ("yard", "press")]
            assert found[1].documents == {"state": {"at": "site/yard/edgeslm"}}
            app.publish("site/hall/edgeslm/v1/press/state", b"", retain=True)
            until(discovery, lambda: [one.site for one in discovery.sightings()] == ["yard"])
        with discovery_of(broker, "press", site="yard") as discovery:
            discovery.settle(WAIT_S)
            assert [(one.site, one.node) for one in discovery.sightings()] == [("yard", "press")]
        with discovery_of(broker) as discovery:
            discovery.settle(WAIT_S)
            assert [one.documents for one in discovery.sightings()] == [{"state": {"at": "edgeslm"}}]
            assert not discovery.uplinks()


def test_it_knows_which_sites_are_cut_off_and_since_when(broker: Mosquitto) -> None:
    with App(broker.port) as app:
        app.publish("site/yard/link", b"0", retain=True)
        with discovery_of(broker, site=ALL_SITES) as discovery:
            discovery.settle(WAIT_S)
            before = discovery.uplinks()["yard"]
            assert (before.is_up, before.since_before) == (False, True)
            for payload in (b"1", b"1", b"0", b"0"):
                app.publish("site/hall/link", payload, retain=True)
            until(discovery, lambda: "hall" in discovery.uplinks() and not discovery.uplinks()["hall"].is_up)
            cut = discovery.uplinks()["hall"]
            assert (cut.is_up, cut.since_before) == (False, False)
            broker.stop()  # it keeps nothing here, as a hub that was set up anew
            until(discovery, lambda: discovery.problem is not None)
            broker.start()
            until(discovery, lambda: discovery.problem is None)
            assert discovery.uplinks()["hall"] == cut
    with App(broker.port) as app, discovery_of(broker, site=ALL_SITES) as discovery:
        discovery.settle(WAIT_S)  # what isn't retained comes to those alone who have subscribed
        for payload in (b"1", b"", b"1", b"off"):
            app.publish("site/hall/link", payload, retain=True)
        app.publish("site/last/link", b"1")
        until(discovery, lambda: list(discovery.uplinks()) == ["last"])


def test_what_a_dispatcher_says_is_heard_under_the_name_of_its_pool(broker: Mosquitto) -> None:
    with App(broker.port) as app, discovery_of(broker) as discovery:
        app.publish(f"{BASE}/pool/hands/state", {"state": "online"}, retain=True)
        app.publish(f"{BASE}/pool/state", {"state": "online"}, retain=True)
        app.publish(f"{BASE}/hall/state", {"state": "online"}, retain=True)
        discovery.settle(WAIT_S)
        until(discovery, lambda: len(discovery.sightings()) == 2)
        assert [one.node for one in discovery.sightings()] == ["hall", "pool/hands"]
    with discovery_of(broker, "pool/hands") as alone:
        alone.settle(WAIT_S)
        assert [one.node for one in alone.sightings()] == ["pool/hands"]
