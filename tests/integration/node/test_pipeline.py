"""Real broker, real pipe, fake engine: a message that comes again, and one that is held in a crash."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeslm.node.daemon import Waits
from edgeslm.storage.database import Database
from edgeslm.storage.spool import Spool
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.disks import flip
from tests.support.fakes import make_delivery
from tests.support.nodes import BASE, FAKE_RUN, TASKS, Node, NodeProcess, fake_configuration

MakeBroker = Callable[..., Mosquitto]
REPLY = f"{BASE}/res/triage/desk"
TRIAGE = f"{BASE}/req/triage"
HASTY = Waits(drain_limit_s=0.1)
SAVING = "persistence true\nautosave_interval 1\nautosave_on_changes true\n"


@pytest.fixture
def node(broker: Mosquitto, tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node:
        yield node


@pytest.fixture
def app(broker: Mosquitto, node: Node) -> Iterator[App]:
    with App(broker.port, f"{BASE}/#", "out/#") as app:
        app.take_state(BASE, "online")
        yield app


def held(tmp_path: Path, name: str = "gate") -> tuple[str, Path, Path]:
    """The text of a request that keeps the engine busy, its gate, and what appears once it does."""
    gate = tmp_path / name
    return f"hold {gate}", gate, Path(f"{gate}.held")


def begun(file: Path, app: App) -> None:
    app.wait_until(file.exists, "the engine works on it")
    file.unlink()


def results(app: App) -> list[Any]:
    """Those of the reply topic that have come when a later request is answered."""
    app.publish(TRIAGE, {"input": "x", "id": f"last-{id(object())}", "reply_to": f"{BASE}/res/triage/last"})
    app.take(f"{BASE}/res/triage/last")
    return app.untaken(REPLY)


# Repeats


@pytest.mark.parametrize("how", ["correlation", "id"])
def test_an_answered_request_is_not_run_again_and_its_result_comes_again(
    app: App, node: Node, tmp_path: Path, how: str
) -> None:
    once = tmp_path / "once"
    text = f"crash-once {once}"  # a second run would find the file
    payloads = set()
    for _ in range(3):
        if how == "id":
            app.publish(TRIAGE, {"input": text, "id": "42", "reply_to": REPLY})
        else:
            app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"42")
        heard = app.take(REPLY)
        assert (heard.json["id"], heard.json["status"]) == ("42", "ok")
        payloads.add(heard.payload)
        once.unlink(missing_ok=True)
    assert len(payloads) == 1
    assert node.daemon.health()["repeats"] == {"attached": 0, "resent": 2}


def test_a_repeat_of_a_running_request_waits_for_its_result(app: App, node: Node, tmp_path: Path) -> None:
    text, gate, working = held(tmp_path)
    app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"42")
    begun(working, app)
    for _ in range(3):
        app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"42")
    app.wait_until(lambda: node.daemon.health()["repeats"]["attached"] == 3, "the repeats are attached")
    gate.touch()
    assert [heard.json["status"] for heard in results(app)] == ["ok"]
    assert not working.exists(), "it was run twice"


def test_what_differs_is_another_request(app: App) -> None:
    other = f"{BASE}/res/triage/other"
    asked = [(REPLY, b"1", "x"), (REPLY, b"2", "x"), (REPLY, b"1", "y"), (other, b"1", "x")]
    for reply_to, correlation, text in asked:
        app.publish(TRIAGE, text, reply_to=reply_to, correlation=correlation)
    results(app)
    assert len(app.untaken(REPLY)) + len(app.untaken(other)) == 4


def test_requests_without_a_name_are_never_repeats(app: App, node: Node) -> None:
    for _ in range(3):
        app.publish(TRIAGE, "all fine", reply_to=REPLY)
    assert len({heard.json["id"] for heard in results(app)}) == 3
    assert node.daemon.health()["repeats"] == {"attached": 0, "resent": 0}


def test_an_error_that_may_pass_is_not_remembered(app: App, node: Node) -> None:
    for code in ("no_memory", "model_unavailable"):
        for _ in range(2):
            app.publish(TRIAGE, f"fail {code}", reply_to=REPLY, correlation=code.encode())
            assert app.take(REPLY).code == code
    assert node.daemon.health()["repeats"] == {"attached": 0, "resent": 0}


# The daemon ends


def test_an_answered_request_is_remembered_over_kill_9(broker: Mosquitto, tmp_path: Path) -> None:
    with (
        App(broker.port, f"{BASE}/#") as app,
        NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node,
    ):
        node.wait_online(app)
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"42")
        first = app.take(REPLY)
        node.kill()
        node.start()
        node.wait_online(app)
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"42")
        assert app.take(REPLY).payload == first.payload


@pytest.mark.parametrize("named", [True, False])
def test_a_request_in_whose_run_the_daemon_ends_twice_is_poisoned(
    broker: Mosquitto, tmp_path: Path, named: bool
) -> None:
    text, _, working = held(tmp_path)
    with (
        App(broker.port, f"{BASE}/#") as app,
        NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node,
    ):
        node.wait_online(app)
        app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"42" if named else None)
        for _ in range(2):
            begun(working, app)
            node.kill()
            node.start()
        assert app.take(REPLY).code == "poisoned"
        assert app.take(f"{BASE}/dead").json["reason"] == "poisoned"
        assert not working.exists(), "it was run a third time"
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"next")
        assert app.take(REPLY, lambda heard: heard.correlation == b"next").json["status"] == "ok"


FREEZING = """
import re
from pathlib import Path
from {module} import {owner}

computed = {owner}.{method}

def freeze(self, *values, **named):
    if "freeze" in str(values) + str(named):
        Path({mark!r}).touch()
        re.search("^(a|a)*$", "a" * 100 + "b")
    return computed(self, *values, **named)

{owner}.{method} = freeze
"""
"""The parent's own code holds the interpreter's lock for ever, by a mistake that this stands for."""


@pytest.mark.parametrize(
    ("module", "method"),
    [
        ("edgeslm.tasks.task.Task", "check_input"),
        ("edgeslm.tasks.classify.Classify", "run"),
        ("edgeslm.node.routes.route.RouteReader", "consider"),
    ],
)
def test_a_request_that_freezes_the_node_twice_is_poisoned(
    broker: Mosquitto, tmp_path: Path, module: str, method: str
) -> None:
    mark = tmp_path / "frozen"
    names = dict(zip(("module", "owner"), module.rsplit(".", 1), strict=True))
    script = FREEZING.format(**names, method=method, mark=str(mark)) + FAKE_RUN
    routes = [{"from": "plant/log", "task": "triage", "to": "out/label"}]
    configuration = fake_configuration(broker.url, tmp_path, routes=routes)
    with (
        App(broker.port, f"{BASE}/#", "out/#") as app,
        NodeProcess(tmp_path, configuration, script=script) as node,
    ):
        node.wait_online(app)
        if method == "consider":
            app.publish("plant/log", "freeze")
        else:
            app.publish(TRIAGE, "freeze", reply_to=REPLY, correlation=b"42")
        for _ in range(2):
            begun(mark, app)
            node.kill()  # as the watchdog does
            node.start()
        assert app.take(f"{BASE}/dead").json["reason"] == "poisoned"
        if method != "consider":
            assert app.take(REPLY).code == "poisoned"
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"next")
        assert app.take(REPLY, lambda heard: heard.correlation == b"next").json["status"] == "ok"
        app.publish("plant/log", "x")
        assert app.take("out/label").json["status"] == "ok"
        assert not mark.exists(), "it was computed a third time"


def test_a_schema_of_a_sender_stops_nobody(broker: Mosquitto, tmp_path: Path) -> None:
    fields = {**TASKS["fields"], "allow": ["schema"], "verbatim": True}
    configuration = fake_configuration(broker.url, tmp_path, tasks={**TASKS, "fields": fields})
    asked = {
        "pattern": {"type": "string", "pattern": "^(a|a)*$"},
        "multiple": {"type": "integer", "multipleOf": 5_000_011},
        "items": {"type": "array", "minItems": 10**7},
    }
    with Node(tmp_path, configuration), App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        for id, field in asked.items():
            schema = {"type": "object", "properties": {"f": field}}
            request = {"id": id, "input": "a" * 40 + "b", "options": {"schema": schema}}
            app.publish(f"{BASE}/req/fields", request, reply_to=f"{BASE}/res/fields/desk")
        app.publish(TRIAGE, "x", reply_to=REPLY)
        assert app.take(REPLY).json["status"] == "ok"
        found = {one["id"]: one for one in (app.take(f"{BASE}/res/fields/desk").json for _ in asked)}
    codes = {id: one.get("error", {}).get("code") for id, one in found.items()}
    assert codes == {"pattern": None, "multiple": "invalid_request", "items": "invalid_request"}


def test_an_orderly_stop_is_not_held_against_a_request(broker: Mosquitto, tmp_path: Path) -> None:
    text, gate, working = held(tmp_path)
    with App(broker.port, f"{BASE}/#") as app:
        for attempt in range(5):
            with Node(tmp_path, fake_configuration(broker.url, tmp_path), waits=HASTY):
                if not attempt:
                    app.take_state(BASE, "online")
                    app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"42")
                begun(working, app)
        gate.touch()
        with Node(tmp_path, fake_configuration(broker.url, tmp_path)):
            assert app.take(REPLY).json["status"] == "ok"


def test_a_message_of_a_route_that_is_delivered_again_is_run_once_more_and_poisoned_in_the_end(
    broker: Mosquitto, tmp_path: Path
) -> None:
    text, _, working = held(tmp_path)
    routes = [{"from": "plant/log", "task": "triage", "to": "out/label"}]
    with (
        App(broker.port, f"{BASE}/#", "out/#") as app,
        NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path, routes=routes), fake=True) as node,
    ):
        node.wait_online(app)
        app.publish("plant/log", text)
        for _ in range(2):
            begun(working, app)
            node.kill()
            node.start()
        assert app.take("out/label").code == "poisoned"
        assert app.take(f"{BASE}/dead").json["reply_to"] == "out/label"


def test_no_result_is_lost_when_several_routes_read_a_full_queue(broker: Mosquitto, tmp_path: Path) -> None:
    text, gate, working = held(tmp_path)
    routes = [{"from": "plant/log", "task": "triage", "to": f"out/{number}"} for number in range(3)]
    configuration = fake_configuration(broker.url, tmp_path, routes=routes, limits={"queue": 4})
    with Node(tmp_path, configuration), App(broker.port, f"{BASE}/#", "out/#") as app:
        app.take_state(BASE, "online")
        app.publish(TRIAGE, text, reply_to=REPLY)
        begun(working, app)
        for number in range(10):
            app.publish("plant/log", f"{number}")
        gate.touch()
        statuses = [app.take(f"out/{number % 3}").json["status"] for number in range(30)]
    assert statuses == ["ok"] * 30


# The broker ends


def test_what_the_node_holds_outlives_a_broker_that_forgets_and_then_the_daemon(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker()  # keeps nothing over its end
    text, gate, working = held(tmp_path)
    with NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node:
        with App(broker.port, f"{BASE}/#") as app:
            node.wait_online(app)
            app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"runs")
            app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"waits")
            begun(working, app)
        broker.kill()
        broker.start()
        with App(broker.port, f"{BASE}/#") as app:
            node.wait_online(app)
            node.kill()
            node.start()
            begun(working, app)
            gate.touch()
            assert {app.take(REPLY).correlation for _ in range(2)} == {b"runs", b"waits"}
            assert results(app) == []


def test_what_waits_longer_than_a_second_outlives_broker_and_daemon_together(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker()  # keeps nothing over its end
    text, gate, working = held(tmp_path)
    journal = tmp_path / "state" / "journal-hall.sqlite-wal"
    with NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node:
        with App(broker.port, f"{BASE}/#") as app:
            node.wait_online(app)
            app.publish(TRIAGE, text, reply_to=REPLY)  # without a name
            app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"waits")
            begun(working, app)
            parts = (text.encode(), b"waits")
            app.wait_until(
                lambda: all(part in journal.read_bytes() for part in parts), "both are written down"
            )
        node.kill()
        broker.kill()
        broker.start()
        gate.touch()
        with App(broker.port, f"{BASE}/#") as app:
            node.start()
            assert {app.take(REPLY).correlation for _ in range(2)} == {None, b"waits"}


def test_a_result_that_was_ready_while_the_broker_was_away_comes_once(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(SAVING)
    text, gate, working = held(tmp_path)
    with NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node:
        with App(broker.port, f"{BASE}/#") as app:
            node.wait_online(app)
            app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"42")
            begun(working, app)
        broker.kill()
        gate.touch()
        broker.start()
        with App(broker.port, f"{BASE}/#") as app:
            assert app.take(REPLY).json["status"] == "ok"
            node.wait_online(app)
            assert results(app) == []


# The spool


def test_with_a_spool_a_message_is_acknowledged_at_once_and_outlives_broker_and_daemon(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker()  # keeps nothing over its end
    text, gate, working = held(tmp_path)
    routes = [{"from": "plant/log", "task": "triage", "to": "out/label"}]
    configuration = fake_configuration(
        broker.url, tmp_path, durability="spool", routes=routes, limits={"queue": 2}
    )
    with NodeProcess(tmp_path, configuration, fake=True) as node:
        with App(broker.port, f"{BASE}/#", "out/#") as app:
            node.wait_online(app)
            app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"0")
            for number in range(1, 6):  # more than the Receive Maximum
                app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"%d" % number)
            app.publish("plant/log", "critical")
            begun(working, app)
            app.wait_until(lambda: "PUBACK" in broker.log, "the messages are acknowledged")
            app.wait_until(lambda: puback_count(broker) == 7, "the messages are acknowledged")
        node.kill()
        broker.kill()
        broker.start()
        gate.touch()
        with App(broker.port, f"{BASE}/#", "out/#") as app:
            node.start()
            assert {app.take(REPLY).correlation for _ in range(6)} == {b"%d" % n for n in range(6)}
            assert app.take("out/label").json["result"]["label"] == "critical"
            node.wait_online(app)
            assert results(app) == []
        assert node.terminate() == 0
    database = sqlite3.connect(next((tmp_path / "state").glob("*.sqlite")))
    assert database.execute("SELECT count(*) FROM spool").fetchone() == (0,)
    database.close()


def test_spooled_messages_that_nobody_reads_any_more_are_forgotten(broker: Mosquitto, tmp_path: Path) -> None:
    database = Database(tmp_path / "state" / "journal-hall.sqlite")
    database.open()
    spool = Spool(database, limit_bytes=10_000_000)
    spool.add([(make_delivery(topic="of/a/route/that/is/gone"), None)] * 1_500)
    spool.add([(make_delivery(correlation=b"last", response_topic=REPLY), None)])
    database.close()
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, fake_configuration(broker.url, tmp_path)):
        assert app.take(REPLY).correlation == b"last"


def test_a_spooled_message_that_the_disk_changed_is_reported_dead(broker: Mosquitto, tmp_path: Path) -> None:
    database = Database(tmp_path / "state" / "journal-hall.sqlite")
    database.open()
    spool = Spool(database, limit_bytes=10_000_000)
    one, two = (make_delivery(b"read", correlation=name, response_topic=REPLY) for name in (b"1", b"2"))
    spool.add([(one, None), (two, None)])
    flip(database, "UPDATE spool SET payload = CAST('read!' AS BLOB) WHERE id = 1")
    database.close()
    configuration = fake_configuration(broker.url, tmp_path)
    with App(broker.port, REPLY, f"{BASE}/dead") as app, Node(tmp_path, configuration) as node:
        assert app.take(REPLY).correlation == b"2"
        dead = app.take(f"{BASE}/dead").json
        assert (dead["id"], dead["task"], dead["reply_to"]) == ("31", "triage", REPLY)
        assert dead["reason"] == "internal" and "read" not in dead["message"]
        health = node.daemon.health()
        assert health["dropped"]["damaged"] == 1
        assert "The disk changed 1 waiting message in the journal" in "".join(health["alerts"])
        app.wait_until(lambda: len(node.daemon._pipeline._spool) == 0, "the spool is empty")
        assert app.untaken(REPLY) == []


def test_a_result_of_a_route_that_can_not_be_sent_before_the_end_stays_in_the_spool(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker()
    text, gate, working = held(tmp_path)
    routes = [{"from": "plant/log", "task": "triage", "to": "out/label"}]
    configuration = fake_configuration(broker.url, tmp_path, durability="spool", routes=routes)
    with Node(tmp_path, configuration, waits=HASTY) as node:
        with App(broker.port, f"{BASE}/#") as app:
            app.take_state(BASE, "online")
            app.publish("plant/log", text)
            begun(working, app)
            app.wait_until(lambda: puback_count(broker) == 1, "the message is acknowledged")
        broker.kill()
        app.wait_until(lambda: not node.daemon.bus.connected, "the node has noticed")
        gate.touch()
        app.wait_until(lambda: node.daemon.bus.waiting_bytes > 0, "the result waits for the broker")
    broker.start()
    with App(broker.port, f"{BASE}/#", "out/#") as app, Node(tmp_path, configuration):
        assert app.take("out/label").json["status"] == "ok"


def puback_count(broker: Mosquitto) -> int:
    return sum("Received PUBACK from edgeslm-hall" in line for line in broker.log.splitlines())


def test_a_packet_identifier_that_is_used_again_does_not_make_a_repeat(
    broker: Mosquitto, tmp_path: Path
) -> None:
    configuration = fake_configuration(broker.url, tmp_path, durability="spool")
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        ids = set()
        for _ in range(3):
            node.deliver(make_delivery(mid=1, received_at=time.monotonic()))
            ids.add(app.take(f"{BASE}/res/triage").json["id"])
        assert len(ids) == 3


def test_a_window_has_both_of_two_equal_messages_with_the_same_packet_identifier(
    broker: Mosquitto, tmp_path: Path
) -> None:
    route = {"from": "plant/log", "task": "brief", "to": "out/digest", "window": {"last": 2}}
    configuration = fake_configuration(broker.url, tmp_path, durability="spool", routes=[route])
    with App(broker.port, f"{BASE}/#", "out/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        node.deliver(make_delivery(b"18.5", topic="plant/log", mid=1, received_at=time.monotonic()))
        pipeline = node.daemon._pipeline
        app.wait_until(lambda: bool(pipeline._router._aggregator._open), "a window is open")
        app.wait_until(lambda: not list(pipeline._admission), "the message is no longer in the spool")
        node.deliver(make_delivery(b"18.5", topic="plant/log", mid=1, received_at=time.monotonic()))
        assert app.take("out/digest").json["result"]["messages"] == 2


def test_a_window_has_a_spooled_message_once_though_its_packet_identifier_is_reused(
    broker: Mosquitto, tmp_path: Path
) -> None:
    text, gate, working = held(tmp_path)
    routes = [
        {"from": "plant/log", "task": "brief", "to": "out/digest", "window": {"last": 3}},
        {"from": "plant/log", "task": "triage", "to": "out/label"},
    ]
    configuration = fake_configuration(broker.url, tmp_path, durability="spool", routes=routes)
    with App(broker.port, f"{BASE}/#", "out/#") as app:
        with Node(tmp_path, configuration, waits=HASTY) as node:
            app.take_state(BASE, "online")
            node.deliver(make_delivery(text.encode(), topic="plant/log", mid=1, received_at=time.monotonic()))
            begun(working, app)  # by the second route, so the message stays in the spool
            pipeline = node.daemon._pipeline
            node.deliver(make_delivery(text.encode(), topic="plant/log", mid=1, received_at=time.monotonic()))
            app.wait_until(lambda: len(list(pipeline._admission)) == 2, "the second message is held")
        gate.touch()
        with Node(tmp_path, configuration):
            for _ in range(2):
                app.take("out/label")
    with closing(sqlite3.connect(next((tmp_path / "state").glob("*.sqlite")))) as db:
        assert db.execute("SELECT count(*) FROM windows").fetchone() == (2,)


def test_a_cancel_finds_the_request_that_came_just_before_it(broker: Mosquitto, tmp_path: Path) -> None:
    configuration = fake_configuration(broker.url, tmp_path, durability="spool")
    text, gate, working = held(tmp_path)
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"runs")
        begun(working, app)
        now = time.monotonic()
        node.deliver(
            make_delivery(mid=100, response_topic=REPLY, correlation=b"42", received_at=now),
            make_delivery(mid=101, topic=f"{BASE}/cancel", correlation=b"42", received_at=now),
        )
        assert app.take(REPLY).code == "cancelled"
        gate.touch()


# Too much


def test_each_route_of_a_topic_has_room_for_all_that_the_queue_holds(
    broker: Mosquitto, tmp_path: Path
) -> None:
    routes = [{"name": f"r{n}", "from": "plant/log", "task": "triage", "to": f"out/{n}"} for n in range(3)]
    text, gate, working = held(tmp_path)
    configuration = fake_configuration(broker.url, tmp_path, routes=routes, limits={"queue": 4})
    with App(broker.port, f"{BASE}/#", "out/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        app.publish("plant/log", text)
        begun(working, app)
        for _ in range(6):
            app.publish("plant/log", "critical")
        gate.touch()
        assert {app.take("out/#").code for _ in range(7 * 3)} == {None}


def test_a_flood_at_qos_0_is_dropped_when_even_its_refusals_pile_up(
    broker: Mosquitto, tmp_path: Path
) -> None:
    configuration = fake_configuration(broker.url, tmp_path, limits={"queue": 4})
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        broker.freeze()
        flood = make_delivery(qos=0, mid=0, correlation=b"flood", received_at=time.monotonic())
        node.deliver(*[flood] * 1_000)
        app.wait_until(lambda: node.daemon.health()["dropped"].get("busy", 0) > 900, "they are dropped")
        broker.thaw()
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"42")
        assert app.take(REPLY).json["status"] == "ok"


# The disk


class FullDisk(Database):
    full: bool

    @property
    def opened(self) -> sqlite3.Connection:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        return super().opened


def fill_disk(node: Node) -> FullDisk:
    database = node.daemon.database
    database.__class__ = FullDisk
    assert isinstance(database, FullDisk)
    database.full = True
    return database


def test_a_message_of_a_route_waits_for_a_disk_with_room(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.node.attempts.FULL_DISK_RETRY_MS", 50)
    routes = [{"from": "plant/log", "task": "triage", "to": "out/label"}]
    with (
        Node(tmp_path, fake_configuration(broker.url, tmp_path, routes=routes)) as node,
        App(broker.port, f"{BASE}/#", "out/#") as app,
    ):
        app.take_state(BASE, "online")
        disk = fill_disk(node)
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"first")  # its result is kept in memory
        assert app.take(REPLY).code is None
        app.publish("plant/log", "critical")
        app.wait_until(lambda: node.daemon.health()["results"].get("busy", 0) > 1, "it is tried again")
        assert app.untaken("out/#") == []
        disk.full = False
        assert app.take("out/label").json["result"]["label"] == "critical"


def test_while_the_disk_is_full_requests_are_busy_and_nothing_that_runs_is_lost(
    app: App, node: Node, tmp_path: Path
) -> None:
    text, gate, working = held(tmp_path)
    app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"runs")
    begun(working, app)
    disk = fill_disk(node)
    gate.touch()
    assert app.take(REPLY).json["status"] == "ok"
    app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"new")
    heard = app.take(REPLY)
    assert (heard.code, heard.json["error"]["retry_after_ms"]) == ("busy", 5000)
    assert any("make room" in sentence for sentence in node.daemon.health()["alerts"])
    disk.full = False

    def answered() -> bool:
        app.publish(TRIAGE, "x", reply_to=REPLY, correlation=b"new")
        return app.take(REPLY).code is None

    app.wait_until(answered, "requests are taken again")
    assert not any("make room" in sentence for sentence in node.daemon.health()["alerts"])
    app.publish(TRIAGE, text, reply_to=REPLY, correlation=b"runs")
    assert app.take(REPLY).correlation == b"runs"
    assert not working.exists(), "its result was not kept"
