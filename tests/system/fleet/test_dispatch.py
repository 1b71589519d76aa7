"""The dispatcher of a pool on a real broker, with small members."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.errors import Busy, RequestError
from edgeslm.messages import Request
from tests.support.apps import App, Heard
from tests.support.brokers import Mosquitto
from tests.support.pools import POOL, DispatcherProcess, Member

LABEL = f"{POOL}/req/label"
REPLY = f"{POOL}/res/label/phone"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path, "max_inflight_messages 256\n")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, f"{POOL}/#") as app:
        yield app


@pytest.fixture
def dispatcher(broker: Mosquitto, tmp_path: Path, app: App) -> Iterator[DispatcherProcess]:
    with DispatcherProcess(tmp_path / "one", broker.url) as dispatcher:
        app.take_state(POOL, "online")
        yield dispatcher


def ask(app: App, *texts: str) -> None:
    for text in texts:
        app.publish(LABEL, text, reply_to=REPLY, correlation=text.encode())


def take(app: App, text: str) -> Heard:
    return app.take(REPLY, lambda heard: heard.correlation == text.encode())


def silent(request: Request) -> None:
    """Nothing is said until it is told."""


def wait_members(app: App, *names: str) -> None:
    app.take(f"{POOL}/info", lambda heard: set(heard.json["members"]) >= set(names))


def test_requests_go_to_members_and_results_come_as_from_a_node(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a") as a, Member(broker.url, "b") as b:
        ask(app, *(str(number) for number in range(10)))
        for number in range(10):
            heard = take(app, str(number))
            assert heard.qos == 1 and heard.json["id"] == str(number)
            assert heard.json["result"]["label"] in "ab"
            timings = heard.json["timings_ms"]
            assert timings["total"] >= 10.0 and timings["queue"] <= timings["total"] - 10.0 + 0.1
        assert len(a.runs) + len(b.runs) == 10 and a.runs and b.runs
        app.publish(LABEL, {"input": "x", "id": "own"}, expiry_s=30)
        heard = app.take(f"{POOL}/res/label")
        assert heard.json["id"] == "own"
        run = next(run for run in [*a.runs, *b.runs] if run.input == "x")
        assert run.expires_at is not None, "what is left of its time goes on with it"
    assert dispatcher.terminate() == 0
    app.take_state(POOL, "stopped")


def test_a_repeat_is_answered_without_a_member_also_after_kill_9(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a") as a:
        ask(app, "x")
        first = take(app, "x")
        ask(app, "x")
        assert take(app, "x").payload == first.payload
        dispatcher.kill()
        dispatcher.start()
        ask(app, "x")
        assert take(app, "x").payload == first.payload
        assert len(a.runs) == 1


def test_a_sensor_of_mqtt_3_1_1_asks_with_fields(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with App(broker.port, f"{POOL}/res/label/sensor", version=4) as sensor, Member(broker.url, "a"):
        sensor.publish(LABEL, {"input": "x", "id": "7", "reply_to": f"{POOL}/res/label/sensor"})
        heard = sensor.take(f"{POOL}/res/label/sensor")
        assert (heard.json["id"], heard.json["result"]) == ("7", {"label": "a"})
        sensor.publish(LABEL, "without a name")
        assert app.take(f"{POOL}/res/label").json["status"] == "ok"


def test_what_a_member_holds_when_it_dies_goes_to_another(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a", silent) as a:
        ask(app, "1", "2")
        app.wait_until(lambda: len(a.runs) == 1, "the first is at the member")
        with Member(broker.url, "b"):
            assert take(app, "2").json["result"] == {"label": "b"}
            a.die()
            assert take(app, "1").json["result"] == {"label": "b"}


def test_kill_9_of_the_dispatcher_loses_nothing_and_runs_nothing_twice(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a", silent) as a, Member(broker.url, "b", silent) as b:
        ask(app, "1", "2", "3")
        app.wait_until(lambda: len(a.runs) + len(b.runs) == 2, "two are at members")
        dispatcher.kill()
        a.tell()
        b.tell()
        ask(app, "4")  # while nobody is there
        dispatcher.start()
        a.answers = b.answers = lambda request: {"label": "later"}
        for text in "1234":
            assert take(app, text).json["status"] == "ok"
        assert len(a.runs) + len(b.runs) == 4
        assert not app.untaken(REPLY)


def test_a_second_dispatcher_takes_over_and_the_first_waits_when_it_comes_back(
    app: App, broker: Mosquitto, tmp_path: Path, dispatcher: DispatcherProcess
) -> None:
    with DispatcherProcess(tmp_path / "two", broker.url) as second, Member(broker.url, "a"):
        ask(app, "1")
        assert take(app, "1").json["status"] == "ok"
        dispatcher.pause()  # its connection stays, and its lease runs out
        ask(app, "2")
        assert take(app, "2").json["status"] == "ok"
        assert app.take(f"{POOL}/lease", lambda heard: heard.json["name"] == "two")
        dispatcher.resume()
        app.wait_until(lambda: "taken the pool over" in dispatcher.words, "the first gives way")
        ask(app, "3")
        assert take(app, "3").json["status"] == "ok"
        assert dispatcher.is_running
        second.terminate()
        app.take(f"{POOL}/lease", lambda heard: heard.json["holder"] and heard.json["name"] == "one")
        ask(app, "4")
        assert take(app, "4").json["status"] == "ok"
        # Of the first it may have been paused between the result and its acknowledgement.
        assert {heard.correlation for heard in app.untaken(REPLY)} <= {b"1"}


def test_a_dispatcher_that_is_killed_is_followed_before_its_lease_runs_out(
    app: App, broker: Mosquitto, tmp_path: Path
) -> None:
    with (
        DispatcherProcess(tmp_path / "one", broker.url, lease_s=3600) as first,
        Member(broker.url, "a", silent) as a,
    ):
        app.take_state(POOL, "online")
        with DispatcherProcess(tmp_path / "two", broker.url, lease_s=3600):
            ask(app, "1")
            app.wait_until(lambda: len(a.runs) == 1, "it is at the member")
            first.kill()
            app.take(f"{POOL}/lease", lambda heard: heard.json["name"] == "two")
            a.tell()
            assert take(app, "1").json["status"] == "ok"
            assert len(a.runs) == 1


@pytest.mark.parametrize("forgets", [True, False])
def test_a_broker_that_is_killed_loses_nothing_that_the_dispatcher_holds(
    tmp_path: Path, forgets: bool
) -> None:
    keeps = "persistence true\nautosave_on_changes true\nautosave_interval 1\n"
    broker = Mosquitto(tmp_path, "max_inflight_messages 256\n" + ("" if forgets else keeps))
    broker.start()
    one, two = (DispatcherProcess(tmp_path / name, broker.url, lease_s=3600) for name in ("one", "two"))
    with one, Member(broker.url, "a", silent) as a:
        with App(broker.port, f"{POOL}/#") as app:
            lease = app.take(f"{POOL}/lease", lambda heard: heard.json["holder"])
        with two:
            with App(broker.port, f"{POOL}/#") as app:
                wait_members(app, "a")
                app.wait_until(lambda: "connected" in two.words, "the second listens")
                ask(app, "1")
                app.wait_until(lambda: len(a.runs) == 1, "it is at the member")
            broker.kill()
            broker.start()
            a.answers = lambda request: {"label": "a"}
            with App(broker.port, f"{POOL}/#") as app:
                wait_members(app, "a")
                a.tell()
                assert take(app, "1").json["status"] == "ok"
                ask(app, "2")
                assert take(app, "2").json["status"] == "ok"
                again = app.take(f"{POOL}/lease", lambda heard: heard.json["holder"])
                assert again.json == lease.json, "who held what the broker forgot is at work"
    assert "at work" not in two.words
    broker.stop()


@pytest.mark.parametrize("by", ["itself", "another"])
def test_what_only_had_to_be_acknowledged_is_not_answered_again(
    app: App, broker: Mosquitto, tmp_path: Path, dispatcher: DispatcherProcess, by: str
) -> None:
    def but_the_first(request: Request) -> dict[str, str] | None:
        return None if request.input == "1" else {"label": "a"}

    with Member(broker.url, "a", but_the_first) as a, Member(broker.url, "b", but_the_first) as b:
        second = DispatcherProcess(tmp_path / "two", broker.url)
        if by == "another":
            second.start()
            app.wait_until(lambda: "connected" in second.words, "the second listens")
        ask(app, "1")
        app.wait_until(lambda: len(a.runs) + len(b.runs) == 1, "the first is at a member")
        others = [str(number) for number in range(2, 8)]
        for text in others:
            ask(app, text)
            take(app, text)
        ask(app, "last")  # by its result all before it are told
        take(app, "last")
        app.take(f"{POOL}/answered", lambda heard: heard.payload != b"")
        dispatcher.kill()
        if by == "itself":
            dispatcher.start()
        app.take(f"{POOL}/state", lambda heard: heard.json["state"] == "offline")
        app.take_state(POOL, "online")
        a.tell()
        b.tell()
        assert take(app, "1").json["status"] == "ok"
        ask(app, "end")
        take(app, "end")
        left = [heard.correlation for heard in app.untaken(REPLY)]
        assert set(left) <= {b"last"}, "its acknowledgement may not have been told yet"
        if by == "another":
            second.kill()


def test_what_is_answered_while_it_drains_is_told_too(
    app: App, broker: Mosquitto, tmp_path: Path, dispatcher: DispatcherProcess
) -> None:
    with (
        Member(broker.url, "a", silent) as a,
        Member(broker.url, "b", silent) as b,
        DispatcherProcess(tmp_path / "two", broker.url) as second,
    ):
        app.wait_until(lambda: "connected" in second.words, "the second listens")
        ask(app, "1")
        app.wait_until(lambda: len(a.runs) + len(b.runs) == 1, "the first is at a member")
        ask(app, "2")
        app.wait_until(lambda: len(a.runs) + len(b.runs) == 2, "the second is at the other one")
        first, other = (a, b) if a.runs[0].input == "1" else (b, a)
        dispatcher.request_stop()
        app.take_state(POOL, "draining")
        other.tell()
        assert take(app, "2").json["status"] == "ok"
        app.take(f"{POOL}/lease", lambda heard: heard.json["name"] == "two" and heard.json["holder"])
        first.answers = other.answers = lambda request: {"label": "later"}
        first.tell()
        assert take(app, "1").json["status"] == "ok"
        assert second.terminate() == 0
        assert not app.untaken(REPLY)


def test_a_busy_member_is_asked_later(app: App, broker: Mosquitto, dispatcher: DispatcherProcess) -> None:
    asked: list[str] = []

    def busy_once(request: Request) -> dict[str, str] | RequestError:
        asked.append(request.id)
        return Busy("too much", retry_after_ms=50) if len(asked) == 1 else {"label": "a"}

    with Member(broker.url, "a", busy_once):
        ask(app, "1")
        assert take(app, "1").json["status"] == "ok" and len(asked) == 2


def test_an_unknown_task_is_told_once_members_have_spoken(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a"):
        app.publish(f"{POOL}/req/nothing", {"input": "x", "id": "1"})
        assert app.take(f"{POOL}/res/nothing").code == "unknown_task"
        with Member(broker.url, "b", tasks=["label", "nothing"], kinds={"nothing": "classify"}):
            app.take(f"{POOL}/info", lambda heard: "nothing" in heard.json["tasks"])
            app.publish(f"{POOL}/req/nothing", {"input": "x", "id": "1"})
            assert app.take(f"{POOL}/res/nothing").json["status"] == "ok", "nodes come and go"


@pytest.mark.parametrize("bound_by", ["the dispatcher", "the broker"])
def test_a_request_whose_nodes_are_away_does_not_stop_the_others(tmp_path: Path, bound_by: str) -> None:
    own, brokers = (8, 256) if bound_by == "the dispatcher" else (256, 8)
    broker = Mosquitto(tmp_path, f"max_inflight_messages {brokers}\n")
    broker.start()
    limits = {"queue": own, "sender_queue": own}
    with (
        App(broker.port, f"{POOL}/#") as app,
        DispatcherProcess(tmp_path / "one", broker.url, limits=limits),
        Member(broker.url, "a"),
    ):
        with Member(broker.url, "b", tasks=["rare"], kinds={"rare": "classify"}):
            app.take(f"{POOL}/info", lambda heard: set(heard.json["tasks"]) == {"label", "rare"})
        app.take(f"{POOL}/info", lambda heard: heard.json["members"].get("b") == "stopped")
        app.publish(f"{POOL}/req/rare", {"input": "x", "id": "1"})
        texts = [str(number) for number in range(20)]  # more than fit behind it
        ask(app, *texts)
        for text in texts:
            assert take(app, text).json["status"] == "ok"
        assert app.take(f"{POOL}/res/rare").code == "busy"
    broker.stop()


def test_what_was_answered_is_forgotten_with_the_brokers_session(
    app: App, dispatcher: DispatcherProcess
) -> None:
    app.take(f"{POOL}/answered", lambda heard: heard.payload == b"")


def test_a_cancel_reaches_the_member_that_has_it(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a", silent) as a:
        ask(app, "1")
        app.wait_until(lambda: len(a.runs) == 1, "it is at the member")
        app.publish(f"{POOL}/cancel", b"", correlation=b"1")
        assert take(app, "1").code == "cancelled"
        assert len(a.cancels) == 1


def test_a_streamed_answer_comes_in_pieces(
    app: App, broker: Mosquitto, dispatcher: DispatcherProcess
) -> None:
    with Member(broker.url, "a"):
        wait_members(app, "a")
        request = {"input": "one two three", "options": {"stream": True}}
        app.publish(LABEL, request, reply_to=REPLY, correlation=b"s")
        pieces = [app.take(f"{REPLY}/stream") for _ in range(3)]
        assert [piece.json for piece in pieces] == [
            {"id": "s", "seq": seq, "text": word} for seq, word in enumerate(("one", "two", "three"))
        ]
        assert {piece.correlation for piece in pieces} == {b"s"}
        assert take(app, "s").json["status"] == "ok"


def test_members_with_another_model_or_a_share_are_left_out_with_an_alert(
    app: App, broker: Mosquitto, tmp_path: Path
) -> None:
    tasks = {"label": {"kind": "classify", "model": "sha256:ffff"}}
    with (
        DispatcherProcess(tmp_path / "one", broker.url, tasks=tasks),
        Member(broker.url, "wrong") as wrong,
        Member(broker.url, "sharing", by="share") as sharing,
    ):
        app.take_state(POOL, "online")
        app.publish(LABEL, "x", reply_to=REPLY, correlation=b"1", expiry_s=8)
        heard = app.take(f"{POOL}/health", lambda heard: len(heard.json["alerts"]) == 2)
        assert [alert.split(":")[0] for alert in heard.json["alerts"]] == [
            "Node sharing is left out",
            "Node wrong gets no label",
        ]
        assert take(app, "1").code in ("unknown_task", "expired")
        assert not wrong.runs and not sharing.runs
        app.publish(f"{POOL}/req/other", {"input": "x", "id": "2"})
        assert app.take(f"{POOL}/res/other").code == "unknown_task", "the file names the tasks"


def test_hostile_messages_change_nothing(app: App, broker: Mosquitto, dispatcher: DispatcherProcess) -> None:
    with Member(broker.url, "a") as a:
        wait_members(app, "a")
        app.publish(LABEL, "retained", retain=True, reply_to=REPLY, correlation=b"retained")
        take(app, "retained")
        dispatcher.kill()
        dispatcher.start()  # a retained request comes with no new subscription
        ours = f"{POOL}/res/label/.dispatch/a"
        for payload in (b"", b"{", b"[]", b'{"id": 1}', json.dumps({"status": "ok"}).encode()):
            app.publish(ours, payload, correlation=b"x")
            app.publish(f"{ours}/stream", payload, correlation=b"x")
            app.publish(f"{POOL}/cancel", payload)
            app.publish(f"{POOL}/lease", payload)
            for kind in ("state", "info", "health"):
                app.publish(f"edgeslm/v1/b/{kind}", payload)
                app.publish(f"edgeslm/v1/+/{kind}".replace("+", "B%"), payload)
        for payload in (b"to ourselves", b"{"):  # would be that member's answer to the request of this name
            app.publish(LABEL, payload, reply_to=ours, correlation=b"loop")
            loop = app.take(f"{POOL}/res/label", lambda heard: heard.correlation == b"loop")
            assert loop.code == "invalid_request"
        app.publish(LABEL, "x", reply_to="edgeslm/v1/a/req/label", correlation=b"2")
        assert app.take(f"{POOL}/res/label").code == "invalid_request"
        app.publish(f"{POOL}/state", b'{"state": "offline", "boot_id": "old"}', retain=True)
        app.take_state(POOL, "offline")
        app.take_state(POOL, "online")
        ask(app, "1")
        assert take(app, "1").json["status"] == "ok"
        assert len(a.runs) == 2
