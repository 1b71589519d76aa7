"""The life of a daemon: start, drain, crash, the broker's absence, a twin. Real broker, fake engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.errors import EdgeslmError
from edgeslm.node.daemon import Waits
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, NodeProcess, fake_configuration, parent_of, write_bundle
from tests.support.signers import Signer

MakeBroker = Callable[..., Mosquitto]
STATE = f"{BASE}/state"


def states(app: App, last: str) -> list[str]:
    """Every state up to ``last``."""
    seen: list[str] = []
    while not seen or seen[-1] != last:
        seen.append(str(app.take(STATE).json["state"]))
    return seen


def test_states_follow_the_life_of_a_node(broker: Mosquitto, tmp_path: Path) -> None:
    configuration = fake_configuration(broker.url, tmp_path)
    boots = set()
    with App(broker.port, STATE) as app:
        for _ in range(2):
            with Node(tmp_path, configuration) as node:
                assert states(app, "online") == ["starting", "online"]
                boots.add(node.daemon.boot_id)
            assert states(app, "stopped") == ["draining", "stopped"]
    assert len(boots) == 2
    with App(broker.port, STATE) as late:
        heard = late.take(STATE)
    assert heard.retain and heard.json["state"] == "stopped" and heard.json["boot_id"] in boots


def test_a_request_is_acknowledged_only_after_its_result_and_outlives_kill_9(
    broker: Mosquitto, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    configuration = fake_configuration(broker.url, tmp_path)
    with App(broker.port, STATE, f"{BASE}/res/#", version=4) as app:
        with NodeProcess(tmp_path, configuration, fake=True) as node:
            app.take_state(BASE, "online")
            workers = node.worker_pids
            app.publish(f"{BASE}/req/say", {"input": "quick", "id": "1"})
            assert app.take(f"{BASE}/res/say").json["id"] == "1"
            app.publish(f"{BASE}/req/say", {"input": f"hold {gate}", "id": "2"})
            app.publish(f"{BASE}/req/say", {"input": "behind it", "id": "3"})
            app.wait_until((tmp_path / "gate.held").exists, "the request runs")
            node.kill()
            heard = app.take(STATE, lambda heard: heard.json["state"] == "offline")
            assert heard.json["boot_id"]
            app.wait_until(lambda: all(parent_of(pid) is None for pid in workers), "the workers end too")
            gate.touch()
            node.start()
            assert [app.take(f"{BASE}/res/say").json["id"] for _ in range(2)] == ["2", "3"]
            assert node.terminate() == 0
        assert app.untaken(f"{BASE}/res/#") == []  # what was acknowledged before the crash isn't run again


def test_the_will_is_retained(broker: Mosquitto, tmp_path: Path) -> None:
    with (
        App(broker.port, STATE) as app,
        NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node,
    ):
        online = app.take_state(BASE, "online")
        node.kill()
        app.take_state(BASE, "offline")
    with App(broker.port, STATE) as late:
        heard = late.take(STATE)
    assert heard.retain
    assert heard.json == {"state": "offline", "boot_id": online.json["boot_id"]}


def test_sigterm_while_the_model_loads_ends_with_status_0(broker: Mosquitto, tmp_path: Path) -> None:
    with (
        App(broker.port, STATE) as app,
        NodeProcess(
            tmp_path, fake_configuration(broker.url, tmp_path), fake=True, FAKE_LOAD=str(tmp_path / "never")
        ) as node,
    ):
        app.take_state(BASE, "starting")
        workers = node.worker_pids
        assert node.terminate() == 0
        assert states(app, "stopped") == ["draining", "stopped"]
        app.wait_until(lambda: all(parent_of(pid) is None for pid in workers), "the workers end too")
        assert "Traceback" not in node.words


def test_sigterm_answers_what_runs_and_leaves_the_rest_to_the_next_start(
    broker: Mosquitto, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    configuration = fake_configuration(broker.url, tmp_path)
    with (
        App(broker.port, STATE, f"{BASE}/res/#") as app,
        NodeProcess(tmp_path, configuration, fake=True) as node,
    ):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", {"input": f"hold {gate}", "id": "running"})
        app.wait_until((tmp_path / "gate.held").exists, "the request runs")
        os.kill(node.pid, signal.SIGTERM)
        app.take_state(BASE, "draining")
        app.publish(f"{BASE}/req/say", {"input": "late", "id": "late"})
        gate.touch()
        assert node.wait() == 0
        assert app.take(f"{BASE}/res/say").json["id"] == "running"
        app.take_state(BASE, "stopped")
        assert app.untaken(f"{BASE}/res/say") == []
        node.start()
        assert app.take(f"{BASE}/res/say").json["id"] == "late"
        assert node.terminate() == 0


def test_of_two_nodes_with_one_name_the_older_ends_and_says_why(broker: Mosquitto, tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    configurations = [fake_configuration(broker.url, folder) for folder in folders]
    with App(broker.port, STATE, f"{BASE}/res/#") as app:
        with NodeProcess(folders[0], configurations[0], fake=True) as older:
            first = app.take_state(BASE, "online")
            with NodeProcess(folders[1], configurations[1], fake=True) as newer:
                assert older.wait() == 1
                assert "two nodes have the same name" in older.words
                assert "Traceback" not in older.words
                second = app.take_state(BASE, "online")
                assert second.json["boot_id"] != first.json["boot_id"]
                app.publish(f"{BASE}/req/say", "hello")
                assert app.take(f"{BASE}/res/say").json["status"] == "ok"
                assert newer.terminate() == 0
        assert states(app, "stopped")[-1] == "stopped"


def test_it_does_not_load_on_when_another_node_has_its_name(broker: Mosquitto, tmp_path: Path) -> None:
    for_ever = {"FAKE_LOAD": str(tmp_path / "never")}
    configuration = fake_configuration(broker.url, tmp_path)
    with App(broker.port, STATE) as app, NodeProcess(tmp_path, configuration, fake=True, **for_ever) as older:
        app.take_state(BASE, "starting")
        other = fake_configuration(broker.url, tmp_path / "two")
        with NodeProcess(tmp_path / "two", other, fake=True):
            assert older.wait() == 1
            assert "two nodes have the same name" in older.words


def test_a_model_that_can_t_be_loaded_ends_the_node_with_a_sentence_and_the_state_stopped(
    broker: Mosquitto, tmp_path: Path
) -> None:
    configuration = fake_configuration(broker.url, tmp_path)
    with App(broker.port, STATE) as app, NodeProcess(tmp_path, configuration) as node:  # the real engine
        assert node.wait() == 1
        # Fast enough a failure comes before the connection; then nothing was announced either.
        seen = [heard.json["state"] for heard in app.untaken(STATE)]
        assert seen in ([], ["starting", "stopped"])
    last = node.words.strip().splitlines()[-1]
    assert " ERROR edgeslm: " in last and str(tmp_path) in last
    assert "Traceback" not in node.words


def test_a_node_that_can_t_load_its_model_says_stopped(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_LOAD", str(gate))
    configuration = fake_configuration(broker.url, tmp_path)
    write_bundle(tmp_path / "small", weights=b"crash at load")
    ended = pytest.raises(EdgeslmError, match="ended unexpectedly")
    with App(broker.port, STATE) as app, ended, Node(tmp_path, configuration):
        assert states(app, "starting") == ["starting"]
        gate.touch()
        assert states(app, "stopped") == ["stopped"]


def test_an_engine_that_is_killed_is_started_again_and_its_request_answered(
    broker: Mosquitto, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    configuration = fake_configuration(broker.url, tmp_path)
    with (
        App(broker.port, STATE, f"{BASE}/res/#", f"{BASE}/dead") as app,
        Node(tmp_path, configuration) as node,
    ):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", {"input": f"hold {gate}", "options": {"stream": True}})
        app.wait_until(lambda: node.daemon.health()["in_flight"] == 1, "the request runs")
        gate.touch()
        os.kill(node.worker_pids["small"], signal.SIGKILL)
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
        assert app.untaken(f"{BASE}/dead") == []


@pytest.mark.parametrize("keeps_sessions", [True, False])
def test_a_node_survives_a_restart_of_the_broker(
    make_broker: MakeBroker, tmp_path: Path, keeps_sessions: bool
) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    lines = f"persistence true\npersistence_location {folder}/\n" if keeps_sessions else ""
    broker = make_broker(lines, folder=folder)
    gate = tmp_path / "gate"
    with Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node:
        with App(broker.port, STATE) as app:
            app.take_state(BASE, "online")
            app.publish(f"{BASE}/req/say", f"hold {gate}")
            app.wait_until((tmp_path / "gate.held").exists, "the request runs")
        broker.stop()
        gate.touch()
        app.wait_until(lambda: node.daemon.health()["in_flight"] == 0, "the request is done")
        broker.start()
        with App(broker.port, f"{BASE}/#") as app:
            app.take(STATE, lambda heard: heard.json == {"state": "online", "boot_id": node.daemon.boot_id})
            assert app.take(f"{BASE}/res/say").json["status"] == "ok"  # waited for the broker
            app.take(f"{BASE}/info")
            app.publish(f"{BASE}/req/triage", "critical again")
            assert app.take(f"{BASE}/res/triage").json["result"]["label"] == "critical"
        assert node.daemon.health()["session_lost"] == int(not keeps_sessions)


def test_a_node_waits_for_a_broker_that_is_not_there_yet(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker()
    broker.stop()
    with NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node:
        broker_less = "Nothing listens at"
        while broker_less not in node.words:
            assert not node.has_ended
        broker.start()
        with App(broker.port, STATE) as app:
            app.take_state(BASE, "online")
        assert node.terminate() == 0


def test_a_stop_does_not_wait_for_a_broker_that_no_longer_answers(broker: Mosquitto, tmp_path: Path) -> None:
    configuration, waits = fake_configuration(broker.url, tmp_path), Waits(announce_s=0.1)
    with App(broker.port, STATE) as app, Node(tmp_path, configuration, waits=waits) as node:
        app.take_state(BASE, "online")
        broker.freeze()
        try:
            node.stop()
        finally:
            broker.thaw()


def test_a_result_that_the_broker_refuses_is_reported_dead_and_frees_its_place(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    rights = tmp_path / "rights"
    rights.write_text(f"topic readwrite #\ntopic deny {BASE}/res/secret\n")
    broker = make_broker(f"acl_file {rights}\n")
    configuration = fake_configuration(broker.url, tmp_path, limits={"queue": 1})
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        for id_ in ("a", "b"):
            app.publish(f"{BASE}/req/say", {"input": "marker", "id": id_, "reply_to": f"{BASE}/res/secret"})
            dead = app.take(f"{BASE}/dead")
            assert (dead.json["id"], dead.json["reason"]) == (id_, "invalid_request")
            assert b"marker" not in dead.payload
        app.publish(f"{BASE}/req/say", "fine")
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"


def test_a_request_of_which_nothing_can_be_reported_frees_its_place_too(
    make_broker: MakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Acknowledgements keep their order: one that never left would stop the node for good."""
    rights = tmp_path / "rights"
    rights.write_text(
        "topic readwrite #\ntopic deny edgeslm/v1/hall/res/secret\ntopic deny edgeslm/v1/hall/dead\n"
    )
    broker = make_broker(f"acl_file {rights}\n")
    configuration = fake_configuration(broker.url, tmp_path, limits={"queue": 1})
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", {"input": "x", "id": "a", "reply_to": f"{BASE}/res/secret"})
        app.publish(f"{BASE}/req/say", "fine")
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
    assert "request a is given up and can't be reported dead" in caplog.text


def test_a_node_that_requires_signatures(broker: Mosquitto, tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    signing = {"require_signature": True, "keys": [str(signer.public)]}
    configuration = fake_configuration(broker.url, tmp_path, signing=signing)
    signer.sign(tmp_path / "small")
    signer.sign(tmp_path / "encoder")
    with App(broker.port, STATE) as app, NodeProcess(tmp_path, configuration, fake=True) as node:
        node.wait_online(app)
        assert node.terminate() == 0
        app.take_state(BASE, "stopped")
        (tmp_path / "encoder" / "extra.json").write_text("{}")
        node.start()
        assert node.wait() == 1
        wrong = f"models.encoder.bundle: {tmp_path}/encoder/extra.json: not listed in the manifest"
        assert wrong in node.words
        (tmp_path / "encoder" / "extra.json").unlink()
        (tmp_path / "encoder" / "model.sig").unlink()
        node.start()
        app.take_state(BASE, "starting")
        assert node.wait() == 1
        app.take_state(BASE, "stopped")
        assert f"edgeslm: {tmp_path}/encoder/model.sig: missing, so the bundle is not signed" in node.words
        assert "Traceback" not in node.words
