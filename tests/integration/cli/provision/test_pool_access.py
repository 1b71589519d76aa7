"""Who may what of a pool: members, apps and a dispatcher, in the list and on a real mosquitto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli.provision.access import app_user, node_user
from edgeslm.client import BrokerError, Client
from edgeslm.errors import ProvisionError
from edgeslm.protocol.topics import Topics
from tests.integration.cli.provision.test_broker import Operation, happens
from tests.support.nodes import Node
from tests.support.pool_members import member
from tests.support.pools import DispatcherProcess
from tests.support.sites import Site
from tests.unit.cli.provision.test_access import configured

HANDS, FEET = "edgeslm/v1/pool/hands", "edgeslm/v1/pool/feet"
APPS = (
    "desk:pool=hands/triage,cancel=pool/hands",
    "phone:pool=feet/triage",
    "hand:dispatcher=feet",
    "root:read=#,write=#,read=$SYS/#",
)


def of(pool: str, by: str = "share", **changes: Any) -> Any:
    return configured(pool={"name": pool, "tasks": ["triage"], "by": by}, **changes)


def test_a_member_reads_its_share_and_answers_for_the_pool() -> None:
    user = node_user(of("hands"))
    assert user.may("read", f"{HANDS}/req/triage")
    assert user.may("read", f"{HANDS}/cancel")
    assert user.may("write", f"{HANDS}/res/triage/desk/1/stream")
    for topic in (f"{HANDS}/req/gist", f"{FEET}/req/triage", f"{HANDS}/res/triage"):
        assert not user.may("read", topic)
    for topic in (f"{HANDS}/req/triage", f"{HANDS}/state", f"{HANDS}/lease"):
        assert not user.may("write", topic)
    narrow = node_user(of("hands", replies=["apps/+/answers"]))
    assert narrow.may("write", f"{HANDS}/res/triage")


def test_where_there_is_a_dispatcher_a_member_reads_nothing_of_the_pool() -> None:
    user = node_user(of("feet", "dispatcher"))
    assert not user.may("read", f"{FEET}/req/triage")
    assert user.may("write", f"{FEET}/res/triage/.dispatch/hall")


def test_a_dispatcher_asks_members_for_what_they_do_for_its_pool() -> None:
    user = app_user("hand:dispatcher=feet", [of("feet", "dispatcher"), of("hands", node="yard")])
    for topic in (f"{FEET}/req/any", f"{FEET}/cancel", f"{FEET}/lease", "edgeslm/v1/yard/health"):
        assert user.may("read", topic)
    for kind in ("state", "info", "health", "lease", "dead"):
        assert user.may("write", f"{FEET}/{kind}")
    hall = Topics("hall")
    assert user.may("write", hall.request("triage")) and user.may("write", hall.cancel)
    for topic in (hall.request("gist"), Topics("yard").request("triage"), hall.control("reload")):
        assert not user.may("write", topic)
    assert not user.may("read", hall.request("triage"))
    assert not user.may("read", f"{HANDS}/req/triage")
    narrow = app_user("hand:dispatcher=feet", [of("feet", "dispatcher", replies=["apps/+/answers"])])
    assert narrow.may("write", "apps/desk/answers") and narrow.may("write", "apps/desk/answers/stream")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("desk:pool=hans/triage", "no configuration names the pool 'hans'; there is hands"),
        ("desk:pool=hands/gist", "no member of the pool hands does 'gist' for it; there is triage"),
        ("desk:pool=hands", "no member of the pool hands does ''"),
        ("desk:dispatcher=feet", "no configuration names the pool 'feet'"),
        ("desk:cancel=pool/feet", "no configuration names the pool 'feet'"),
    ],
)
def test_what_cannot_be_given_is_told(text: str, why: str) -> None:
    with pytest.raises(ProvisionError, match=why):
        app_user(text, [of("hands")])


# --- on a real broker --------------------------------------------------------------------------------

ALLOWED = [
    Operation("left", "reads", f"{HANDS}/req/triage"),
    Operation("left", "reads", f"$share/hands/{HANDS}/req/triage"),
    Operation("left", "reads", f"{HANDS}/cancel"),
    Operation("left", "writes", f"{HANDS}/res/triage/desk/1"),
    Operation("far", "writes", f"{FEET}/res/triage/.dispatch/far"),
    Operation("desk", "writes", f"{HANDS}/req/triage"),
    Operation("desk", "reads", f"{HANDS}/res/triage/desk/1"),
    Operation("desk", "writes", f"{HANDS}/cancel"),
    Operation("hand", "reads", f"{FEET}/req/triage"),
    Operation("hand", "reads", "edgeslm/v1/far/health"),
    Operation("hand", "writes", "edgeslm/v1/far/req/triage"),
    Operation("hand", "writes", f"{FEET}/lease"),
]
FORBIDDEN = [
    Operation("left", "reads", f"$share/feet/{FEET}/req/triage"),
    Operation("left", "writes", f"{HANDS}/req/triage"),
    Operation("left", "writes", f"{HANDS}/state"),
    Operation("far", "reads", f"$share/feet/{FEET}/req/triage"),
    Operation("desk", "reads", f"{HANDS}/req/triage"),
    Operation("desk", "reads", f"$share/any/{HANDS}/req/triage"),
    Operation("desk", "reads", f"$share/any/{HANDS}/res/triage/phone/1"),
    Operation("desk", "writes", f"{FEET}/req/triage"),
    Operation("phone", "writes", f"{HANDS}/req/triage"),
    Operation("phone", "writes", f"{FEET}/cancel"),
    Operation("phone", "writes", "edgeslm/v1/far/req/triage"),
    Operation("hand", "reads", f"{HANDS}/req/triage"),
    Operation("hand", "writes", "edgeslm/v1/left/req/triage"),
    Operation("hand", "writes", "edgeslm/v1/far/ctl/reload"),
]


def _settings(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in member("", folder / "of", name, **changes).items() if key != "node"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pool-acl")
    (folder / "of").mkdir()
    by_dispatcher = {"name": "feet", "tasks": ["triage"], "by": "dispatcher"}
    configurations = {
        "left": _settings(folder, "left"),
        "right": _settings(folder, "right"),
        "far": _settings(folder, "far", pool=by_dispatcher, replies=["apps/+/answers"]),
    }
    site = Site(folder, configurations, APPS)
    site.configurations = configurations  # type: ignore[attr-defined]
    site.broker.start()
    yield site
    site.broker.stop()


def arrives(site: Site, operation: Operation) -> bool:
    """As :func:`happens`, for shared subscriptions too: what is published has no group in front of it."""
    if not operation.topic.startswith("$share/"):
        return happens(site, operation, 5)
    topic = operation.topic.split("/", 2)[2]
    with site.app("root") as writer, site.app(operation.who, operation.topic) as reader:
        writer.publish(topic, "shared")
        reader.subscribe("$SYS/broker/uptime")  # its acknowledgement comes behind what was published before
        return any(heard.payload == b"shared" for heard in reader.untaken(topic))


@pytest.mark.parametrize("operation", ALLOWED, ids=str)
def test_what_is_allowed_arrives(site: Site, operation: Operation) -> None:
    assert arrives(site, operation)


@pytest.mark.parametrize("operation", FORBIDDEN, ids=str)
def test_what_is_forbidden_does_not(site: Site, operation: Operation) -> None:
    assert not arrives(site, operation)


def test_members_apps_and_a_dispatcher_work_together_with_nothing_but_their_grants(
    site: Site, tmp_path: Path
) -> None:
    def run(name: str) -> Node:
        (home := tmp_path / name).mkdir()
        return Node(home, {"node": name, **site.configurations[name]})  # type: ignore[attr-defined]

    def client(name: str, pool: str) -> Client:
        login = site.login(name)
        return Client(login.pop("url"), pool=pool, name=name, **login)  # type: ignore[arg-type]

    with (
        run("left"),
        run("far"),
        site.app("root", "edgeslm/v1/+/state", f"{FEET}/state", f"{FEET}/health") as root,
        DispatcherProcess(tmp_path / "d", "", pool="feet", broker=site.login("hand")) as dispatcher,
        client("desk", "hands") as desk,
        client("phone", "feet") as phone,
    ):
        for base in ("edgeslm/v1/left", "edgeslm/v1/far", FEET):
            root.take_state(base, "online")
        assert desk.request("triage", "x").unwrap()["label"] == "normal"
        assert phone.request("triage", "x").unwrap()["label"] == "normal"
        with pytest.raises(BrokerError, match="refuses the request"):
            phone.request("gist", "x")
        with DispatcherProcess(tmp_path / "e", "", pool="feet", broker=site.login("hand")) as other:
            root.wait_until(lambda: "connected" in other.words, "the other waits")
            dispatcher.kill()
            assert phone.request("triage", "y").unwrap()["label"] == "normal"
            assert root.take(f"{FEET}/health", lambda heard: heard.json["results"]).json["alerts"] == []
            assert "refuses" not in dispatcher.words + other.words
