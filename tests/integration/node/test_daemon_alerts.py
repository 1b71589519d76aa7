"""What the broker drops, and damage of the journal, is said in ``health``. Real broker, fake engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from edgeslm.node.daemon import Waits
from edgeslm.protocol.topics import BROKER_DROPPED
from edgeslm.storage.database import Database
from edgeslm.storage.spool import Spool
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.fakes import make_delivery
from tests.support.nodes import BASE, Node, fake_configuration

MakeBroker = Callable[..., Mosquitto]


def test_what_the_broker_drops_is_an_alert_in_health(make_broker: MakeBroker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    broker = make_broker("sys_interval 1\nmax_queued_messages 5\n")
    configuration = fake_configuration(broker.url, tmp_path, limits={"queue": 1})
    with App(broker.port, f"{BASE}/#", BROKER_DROPPED) as app:
        app.take(BROKER_DROPPED)  # a broker that has just started has not told it yet
        with Node(tmp_path, configuration, waits=Waits(health_every_s=0.05)):
            check_alert(app, gate)


def check_alert(app: App, gate: Path) -> None:
    app.take_state(BASE, "online")
    calm = app.take(f"{BASE}/health").json
    assert (calm["broker_dropped"], calm["alerts"]) == (0, [])
    app.publish(f"{BASE}/req/say", f"hold {gate}")  # so that the others wait at the broker
    app.wait_until(gate.with_name("gate.held").exists, "the request runs")
    for number in range(20):
        app.publish(f"{BASE}/req/say", f"number {number}")
    health = app.take(f"{BASE}/health", lambda heard: bool(heard.json["broker_dropped"])).json
    assert 10 <= health["broker_dropped"] <= 15
    assert ["max_queued_messages" in alert for alert in health["alerts"]] == [True]
    gate.touch()


def test_a_node_whose_broker_tells_it_nothing_is_calm(make_broker: MakeBroker, tmp_path: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic readwrite edgeslm/#\n")
    broker = make_broker(f"acl_file {rights}\n")
    with (
        App(broker.port, f"{BASE}/#") as app,
        Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node,
    ):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", "fine")
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
        assert node.daemon.health()["alerts"] == []


def test_a_damaged_journal_is_an_alert_and_what_waits_in_it_is_answered(
    broker: Mosquitto, tmp_path: Path
) -> None:
    with closing(Database(tmp_path / "state" / "journal-hall.sqlite")) as database:
        database.open()
        waiting = make_delivery(b"fine", topic=f"{BASE}/req/say", response_topic=f"{BASE}/res/say/me")
        Spool(database, limit_bytes=1_000_000).add([(waiting, None)])
    with (tmp_path / "state" / "journal-hall.sqlite").open("r+b") as stream:
        stream.write(b"no header")
    with (
        App(broker.port, f"{BASE}/#") as app,
        Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node,
    ):
        assert app.take(f"{BASE}/res/say/me").json["status"] == "ok"
        (alert,) = node.daemon.health()["alerts"]
        assert "1 waiting messages" in alert and "journal-hall.damaged-1" in alert
