"""What docs/guides/pools.md says of a pool at mosquitto: a real broker, and members that end in every way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from edgeslm.cli import main
from edgeslm.client import BrokerError, Client, InvalidRequest, TimedOut
from tests.support.apps import App
from tests.support.brokers import Mosquitto, shipped_lines
from tests.support.nodes import Node, NodeProcess
from tests.support.pool_members import ASK, POOL, answers, ask, base, member, untaken_ids, who

pytestmark = pytest.mark.e2e
MakeBroker = Callable[..., Mosquitto]
DESK = f"{POOL}/res/triage/desk"


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, f"{POOL}/res/#", "edgeslm/v1/+/state", "edgeslm/v1/+/dead") as app:
        yield app


def online(app: App, *names: str) -> None:
    for name in names:
        app.take_state(base(name), "online")


def test_members_share_the_requests_and_each_is_answered_once(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        names = ("left", "right")
        for name in names:
            stack.enter_context(Node(tmp_path / name, member(broker.url, tmp_path, name)))
        online(app, *names)
        asked = ask(app, 0, 40)
        heard = answers(app, 40)
        assert {one.json["id"] for one in heard} == asked
        shares = [who(one, tmp_path, *names) for one in heard]
        assert {name: shares.count(name) for name in names} == {"left": 20, "right": 20}
        app.publish(ASK, "no reply topic")
        assert app.take(f"{POOL}/res/triage").json["status"] == "ok"
        app.publish(ASK, {"input": "x", "id": "foreign", "reply_to": "elsewhere/x"})
        assert app.take(f"{POOL}/res/triage").code == "invalid_request"


def test_the_share_of_a_killed_member_waits_for_it(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    names = ("left", "right")
    with (
        Node(tmp_path / "left", member(broker.url, tmp_path, "left")),
        NodeProcess(_home(tmp_path, "right"), member(broker.url, tmp_path, "right"), fake=True) as right,
    ):
        right.wait_online(app, base("right"))
        online(app, "left")
        right.kill()
        app.take_state(base("right"), "offline")
        asked = ask(app, 0, 20)
        early = answers(app, 10)
        assert {who(one, tmp_path, *names) for one in early} == {"left"}
        assert untaken_ids(app) == set()
        right.start()
        late = answers(app, 10)
        assert {who(one, tmp_path, *names) for one in late} == {"right"}
        assert {one.json["id"] for one in (*early, *late)} == asked


@pytest.mark.parametrize("how", ["stop", "drain"])
@pytest.mark.parametrize("durability", ["broker", "spool"])
def test_a_member_that_ends_in_order_answers_what_it_has_and_gets_nothing_more(
    broker: Mosquitto, app: App, tmp_path: Path, how: str, durability: str
) -> None:
    gate = tmp_path / "gate"
    names = ("left", "right")
    leaving = member(broker.url, tmp_path, "right", durability=durability, control={"allow": ["drain"]})
    if how == "stop":
        leaving["limits"] = {"queue": 2}  # so that the broker still has some of its share
    with Node(tmp_path / "right", leaving) as right:
        online(app, "right")
        held = ask(app, 0, 8, f"hold {gate}")
        app.wait_until(Path(f"{gate}.held").exists, "the member works on one")
        with Node(tmp_path / "left", member(broker.url, tmp_path, "left")):
            online(app, "left")
            if how == "stop":
                right.request_stop()
            else:
                app.publish(f"{base('right')}/ctl/drain", b"")
            app.take_state(base("right"), "draining")
            asked = ask(app, 100, 20)
            heard = answers(app, 20)
            assert {one.json["id"] for one in heard} == asked
            assert {who(one, tmp_path, *names) for one in heard} == {"left"}
            gate.touch()
            app.take_state(base("right"), "stopped")
            assert {one.json["id"] for one in answers(app, 8)} == held
            later = ask(app, 200, 10)
            assert {one.json["id"] for one in answers(app, 10)} == later


def test_a_broker_that_is_killed_forgets_no_request(make_broker: MakeBroker, tmp_path: Path) -> None:
    (folder := tmp_path / "broker").mkdir()
    broker = make_broker(shipped_lines("strict", folder), folder=folder)
    gate = tmp_path / "gate"
    with (
        Node(tmp_path / "left", member(broker.url, tmp_path, "left")),
        Node(tmp_path / "right", member(broker.url, tmp_path, "right")),
        App(broker.port, f"{POOL}/res/#", "edgeslm/v1/+/state") as app,
    ):
        online(app, "left", "right")
        asked = ask(app, 0, 20, f"hold {gate}")
        app.wait_until(Path(f"{gate}.held").exists, "a member works on one")
        broker.kill()
        broker.start()
        with App(broker.port, f"{POOL}/res/#") as again:
            gate.touch()
            assert {one.json["id"] for one in answers(again, 20)} >= asked


def test_a_sender_that_repeats_reaches_another_member(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    with (
        NodeProcess(_home(tmp_path, "left"), member(broker.url, tmp_path, "left"), fake=True) as left,
        Node(tmp_path / "right", member(broker.url, tmp_path, "right")),
    ):
        left.wait_online(app, base("left"))
        online(app, "right")
        left.kill()
        app.take_state(base("left"), "offline")
        with Client(broker.url, pool="hands", repeat_after_s=0.3) as client:
            for _ in range(4):
                assert client.request("triage", "all fine", timeout=60).status == "ok"


def test_a_repeat_that_reaches_the_same_member_is_not_run_again(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    both = {"pool": {"name": "hands", "tasks": ["triage"]}}
    with Node(tmp_path / "left", member(broker.url, tmp_path, "left", **both)) as left:
        online(app, "left")
        for _ in range(3):
            app.publish(ASK, f"crash-once {once}", reply_to=DESK, correlation=b"42")
            assert app.take(DESK).json["status"] == "ok"
            once.unlink(missing_ok=True)
        assert left.daemon.health()["repeats"] == {"attached": 0, "resent": 2}
        # The same, sent to the node itself, is another request.
        app.publish(f"{base('left')}/req/triage", f"crash-once {once}", reply_to=DESK, correlation=b"42")
        assert app.take(DESK).json["status"] == "ok"
        assert left.daemon.health()["repeats"] == {"attached": 0, "resent": 2}


def test_a_poisonous_request_ends_one_members_engine_and_is_given_up(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    with (
        Node(tmp_path / "left", member(broker.url, tmp_path, "left")) as left,
        Node(tmp_path / "right", member(broker.url, tmp_path, "right")) as right,
    ):
        online(app, "left", "right")
        app.publish(ASK, "crash", reply_to=DESK, correlation=b"42")
        assert app.take(DESK).code == "poisoned"
        assert app.take("edgeslm/v1/+/dead").json["task"] == "triage"
        losses = [node.daemon.health()["engine_restarts"]["small"] for node in (left, right)]
        assert sorted(losses) == [0, max(losses)]
        ask(app, 0, 10)
        assert {one.json["status"] for one in answers(app, 10)} == {"ok"}


def test_a_cancel_reaches_the_member_that_has_the_request_and_no_request_of_the_same_id_elsewhere(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with (
        Node(tmp_path / "left", member(broker.url, tmp_path, "left")),
        Node(tmp_path / "right", member(broker.url, tmp_path, "right")),
    ):
        online(app, "left", "right")
        for name in ("left", "right"):  # each holds one of its own, of the same id
            own = {"input": f"hold {gate}", "id": "1", "reply_to": f"{base(name)}/res/triage/desk"}
            app.publish(f"{base(name)}/req/triage", own)
        app.subscribe("edgeslm/v1/+/res/#")
        app.publish(ASK, {"input": f"hold {gate}", "id": "1", "reply_to": DESK})
        app.publish(f"{POOL}/cancel", {"id": "1"})
        assert app.take(DESK).code == "cancelled"
        gate.touch()
        for name in ("left", "right"):
            assert app.take(f"{base(name)}/res/triage/desk").json["status"] == "ok"


def test_a_member_takes_up_another_pool_while_it_runs(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    first = member(broker.url, tmp_path, "left", control={"allow": ["reload"]})
    with Node(tmp_path / "left", first) as left:
        online(app, "left")
        other = {**first, "pool": {"name": "feet", "tasks": ["triage"]}}
        left.file.write_text(yaml.safe_dump(other))
        app.subscribe("edgeslm/v1/left/ctl/reload/res", "edgeslm/v1/left/info", "edgeslm/v1/pool/feet/#")
        app.publish("edgeslm/v1/left/ctl/reload", b"")
        assert app.take("edgeslm/v1/left/ctl/reload/res").json["result"] == {"changed": ["pool"]}
        told = app.take("edgeslm/v1/left/info", lambda heard: heard.json["pool"]["name"] == "feet")
        assert told.json["pool"] == {"name": "feet", "tasks": ["triage"], "by": "share"}
        app.publish("edgeslm/v1/pool/feet/req/triage", "x")
        assert app.take("edgeslm/v1/pool/feet/res/triage").json["status"] == "ok"
    with Client(broker.url, pool="hands") as client, pytest.raises(BrokerError, match="pool 'hands'"):
        client.request("triage", "x")


def test_a_node_that_has_left_its_pool_while_it_was_away_gives_its_share_back(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    configuration = member(broker.url, tmp_path, "right")
    with NodeProcess(_home(tmp_path, "right"), configuration, fake=True) as right:
        right.wait_online(app, base("right"))
        right.kill()
        app.take_state(base("right"), "offline")
        parked = ask(app, 0, 1)
    del configuration["pool"]
    with (
        Node(tmp_path / "right", configuration),
        Node(tmp_path / "left", member(broker.url, tmp_path, "left")),
    ):
        online(app, "right", "left")
        assert {one.json["id"] for one in answers(app, 1)} == parked  # it was sent to the pool, and is served
        ask(app, 10, 10)
        assert {who(one, tmp_path, "left", "right") for one in answers(app, 10)} == {"left"}


def test_with_a_dispatcher_a_member_takes_nothing_of_the_pool_by_itself(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    pool = {"name": "hands", "tasks": ["triage"], "by": "dispatcher"}
    with Node(tmp_path / "left", member(broker.url, tmp_path, "left", pool=pool)):
        online(app, "left")
        with Client(broker.url, pool="hands") as client:
            with pytest.raises(BrokerError, match="No member of the pool 'hands' listens for this task"):
                client.request("triage", "x")
            # What a dispatcher would send: its own reply topic is one that members may answer on.
            reply_to = f"{POOL}/res/triage/dispatcher"
            app.publish(f"{base('left')}/req/triage", "x", reply_to=reply_to, correlation=b"7")
            assert app.take(reply_to).json["status"] == "ok"


def test_the_command_asks_a_pool(
    broker: Mosquitto, app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["request", "triage", "all fine", "--broker", broker.url]
    with Node(tmp_path / "left", member(broker.url, tmp_path, "left")):
        online(app, "left")
        assert main.main([*request, "--pool", "hands"]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == "ok"
    assert main.main([*request, "--pool", "hands"]) == 1
    assert "No member of the pool 'hands' listens" in capsys.readouterr().err
    for wrong in ([], ["--pool", "hands", "--node", "left"]):
        with pytest.raises(SystemExit) as end:
            main.main([*request, *wrong])
        assert end.value.code == 1


def test_what_an_app_hears_when_a_pool_does_not_answer(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="a node or a pool"):
        Client(broker.url)
    gate = tmp_path / "gate"
    with (
        Node(tmp_path / "left", member(broker.url, tmp_path, "left")),
        Client(broker.url, pool="hands") as client,
    ):
        online(app, "left")
        with pytest.raises(InvalidRequest, match="A pool takes no corrections"):
            client.feedback("triage", input="x", label="normal")
        with pytest.raises(TimedOut, match="the pool 'hands' has none that answered"):
            client.request("triage", f"hold {gate}", timeout=3)
        assert client.request("triage", "x").unwrap()["label"] == "normal"
        assert client.node_state is None
    # The last member is gone, and has said so.
    with Client(broker.url, "pool/hands") as client, pytest.raises(BrokerError, match="or start a member"):
        client.request("triage", "x")


def _home(folder: Path, name: str) -> Path:
    (home := folder / name).mkdir(exist_ok=True)
    return home
