"""provision/bridge.py on real mosquittos with mutual TLS: what goes up and down, who may what at the hub."""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.cli.provision.access import render
from edgeslm.cli.provision.bridge import (
    LEAST_QUEUED,
    BridgeQueue,
    bridge_settings,
    hub_access,
    plan_bridge,
    unsent,
)
from edgeslm.client import Client
from edgeslm.config.loader import parse_config
from edgeslm.config.schema import Config
from edgeslm.errors import ProvisionError
from tests.support.hubs import Hub
from tests.support.nodes import TASKS, Node, fake_configuration

HALL = "edgeslm/v1/hall"
HUB = "mqtts://hub.example.com"
UP = "factory/+/log/label"


def configuration(folder: Path, site: str) -> dict[str, Any]:
    """A node called ``hall``, as each site has one."""
    (folder / site).mkdir(exist_ok=True)
    hall = fake_configuration("", folder / site)
    del hall["node"]
    hall["tasks"] = {"triage": TASKS["triage"], "say": TASKS["say"]}
    hall["discovery"] = {"prefix": "homeassistant"}
    hall["replies"] = [f"{HALL}/res/#", f"site/{site}/{HALL}/res/#"]
    hall["routes"] = [
        {"from": "factory/+/log", "task": "triage", "to": "factory/{{ topic[1] }}/log/label"},
        {"from": "yard/+", "task": "triage", "name": "yard"},
    ]
    return hall


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    bundles = tmp_path_factory.mktemp("bundles")
    sites = {site: {"hall": configuration(bundles, site)} for site in ("north", "south")}
    apps = (
        "root:read=#,write=#",
        f"desk:write=site/north/{HALL}/req/triage,read=site/north/{HALL}/res/triage/desk/#,"
        f"read=site/north/{HALL}/state",
    )
    with Hub(folder, sites, apps=apps, options=("--up", UP, "--allow-down", "hall/triage")) as hub:
        with hub.app("root", "site/+/link") as root:
            hub.wait_for_link(root, "north")
            hub.wait_for_link(root, "south")
        yield hub


_numbers = itertools.count(1)

GOES_UP = [f"{HALL}/state", f"{HALL}/info", f"{HALL}/health", f"{HALL}/dead", f"{HALL}/event/yard"]
GOES_UP += ["edgeslm/v1/other/event/a/b", "factory/3/log/label"]
STAYS = [f"{HALL}/{below}" for below in ("req/triage", "cancel", "feedback", "ctl/reload", "ctl/reload/res")]
STAYS += [f"{HALL}/res/triage", f"{HALL}/res/triage/desk/1", "edgeslm/v1/pool/p/req/triage", "factory/3/log"]
STAYS += ["factory/3/log/label/more", "other/v1/hall/state", "site/south/link", f"site/south/{HALL}/state"]


def test_what_goes_up_is_below_the_site_and_all_else_stays(hub: Hub) -> None:
    with hub.app("root", "#") as above, hub.sites["north"].app("root") as below:
        for topic in [*GOES_UP, *STAYS]:
            below.publish(topic, f"on {topic}")
        below.publish(GOES_UP[-1], "the last one")
        above.take(f"site/north/{GOES_UP[-1]}", lambda heard: heard.payload == b"the last one")
        came = [(heard.topic, heard.payload.decode()) for heard in above.untaken("#") if not heard.retain]
        assert sorted(came) == sorted((f"site/north/{topic}", f"on {topic}") for topic in GOES_UP)


def test_nodes_of_two_sites_with_one_name_are_two(hub: Hub) -> None:
    with hub.app("root", "site/#") as above:
        for name, site in hub.sites.items():
            with site.app("root") as below:
                below.publish(f"{HALL}/state", {"state": "online", "of": name}, retain=True)
        for name in hub.sites:
            state = above.take(f"site/{name}/{HALL}/state", lambda heard: b'"of"' in heard.payload)
            assert state.json["of"] == name
    with hub.app("root", "site/#") as later:  # it is retained at the hub too
        for name in hub.sites:
            assert later.take(f"site/{name}/{HALL}/state", lambda heard: heard.retain).json["of"] == name


def test_what_mqtt_5_says_of_a_message_goes_up_with_it(hub: Hub) -> None:
    with hub.app("root", f"site/north/{HALL}/event/#") as above, hub.sites["north"].app("root") as below:
        below.publish(f"{HALL}/event/a", "x", correlation=b"\x00\xff", expiry_s=600)
        heard = above.take(f"site/north/{HALL}/event/a")
        assert heard.correlation == b"\x00\xff"
        assert heard.expiry_s is not None
        assert 500 < heard.expiry_s <= 600


def test_a_task_that_may_be_asked_from_the_hub_answers_there_and_no_other_does(hub: Hub) -> None:
    site = hub.sites["north"]
    home = site.folder.parent / "hall"
    with Node(home, yaml.safe_load((home / "config.yaml").read_text())), hub.app("root", "site/#") as above:
        above.take_state(f"site/north/{HALL}", "online")
        login = hub.login("desk")
        with Client(
            login["url"],
            "hall",
            prefix="site/north/edgeslm",
            name="desk",
            ca_file=login["ca_file"],
            cert_file=login["cert_file"],
            key_file=login["key_file"],
        ) as desk:
            assert desk.request("triage", "all is well", timeout=60).status == "ok"
        with site.app("root", f"{HALL}/#") as below:
            for topic in ("req/say", "cancel", "ctl/ping", "feedback"):
                above.publish(f"site/north/{HALL}/{topic}", "not for you")
            above.publish(f"site/south/{HALL}/req/triage", "for the other one")
            above.publish(f"site/north/{HALL}/req/triage", "the last one")
            below.take(f"{HALL}/req/triage", lambda heard: heard.payload == b"the last one")
            assert not [heard for heard in below.untaken("#") if b"for " in heard.payload]


class Operation(NamedTuple):
    """The bridge of ``north`` publishes to a topic at the hub, or would read what is published to it."""

    does: Literal["writes", "reads"]
    topic: str


NORTH, SOUTH = f"site/north/{HALL}", f"site/south/{HALL}"
ALLOWED = [
    *(Operation("writes", f"site/north/{topic}") for topic in GOES_UP),
    Operation("writes", "site/north/link"),
    Operation("writes", f"{NORTH}/res/triage/desk/1"),
    Operation("reads", f"{NORTH}/req/triage"),
]
FORBIDDEN = [
    *(Operation("writes", f"site/south/{topic}") for topic in GOES_UP),
    *(Operation("writes", topic) for topic in GOES_UP),
    Operation("writes", "site/south/link"),
    Operation("writes", f"{SOUTH}/res/triage/desk/1"),
    Operation("writes", f"{SOUTH}/req/triage"),
    Operation("writes", f"{NORTH}/req/triage"),
    Operation("writes", f"{NORTH}/ctl/reload"),
    Operation("writes", f"{NORTH}/res/say/desk/1"),
    Operation("writes", f"{HALL}/req/triage"),
    Operation("writes", "site"),
    Operation("writes", "site/north"),
    Operation("writes", "homeassistant/sensor/x/config"),
    Operation("reads", f"{SOUTH}/req/triage"),
    Operation("reads", f"{SOUTH}/state"),
    Operation("reads", f"{NORTH}/req/say"),
    Operation("reads", f"{NORTH}/ctl/reload"),
    Operation("reads", f"{HALL}/req/triage"),
    Operation("reads", "factory/3/log"),
]


class HostileHub:
    """Lets a bridge in with the hub's own certificate, and sends it what it never subscribed to."""

    def __init__(self, keys: Path, port: int) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=keys / "ca.pem")
        context.load_cert_chain(keys / "broker.pem", keys / "broker.key")
        self._listener = socket.create_server(("127.0.0.1", port))
        self._context = context

    def send(self, topics: list[str]) -> None:
        connection, _ = self._listener.accept()
        self._bridge = self._context.wrap_socket(connection, server_side=True)
        self._bridge.recv(65536)
        self._bridge.sendall(bytes([0x20, 3, 0, 0, 0]))  # CONNACK: success, no properties
        for topic in topics:
            name = topic.encode()
            body = struct.pack("!H", len(name)) + name + b"\0from the hub"
            self._bridge.sendall(bytes([0x30, len(body)]) + body)

    def close(self) -> None:
        self._bridge.close()
        self._listener.close()


def test_a_hub_that_was_taken_over_reaches_no_node_and_no_guarded_topic(tmp_path: Path) -> None:
    """mosquitto 2.0 publishes what comes over a bridge without asking its access list."""
    hub = Hub(tmp_path, {"north": {"hall": configuration(tmp_path, "n")}}, options=("--guard", "plc/#"))
    hostile = HostileHub(hub.folder, hub.broker.port)
    site = hub.sites["north"]
    site.broker.start()
    try:
        guarded = [f"{HALL}/{below}" for below in ("req/say", "ctl/reload", "cancel", "feedback", "state")]
        guarded += ["edgeslm/v1/pool/p/req/triage", "factory/3/log", "yard/1", "plc/valve/open"]
        guarded += ["homeassistant/status", "homeassistant/sensor/x/config"]
        with site.app("root", "#") as below:
            hostile.send([*guarded, "not/guarded"])
            below.take("not/guarded")
            came = [heard.topic for heard in below.untaken("#") if heard.payload == b"from the hub"]
            assert sorted(came) == [f"from-hub/{topic}" for topic in sorted(guarded)]
    finally:
        site.broker.stop()
        hostile.close()
        hub.network.stop()


@pytest.mark.parametrize("version", [5, 4])
def test_at_the_hub_a_site_reaches_its_own_topics_alone(hub: Hub, version: int) -> None:
    """With the generated files; 4 is MQTT 3.1.1. ``pytest -s`` prints the table."""
    wrong = []
    for operation, expected in [*((one, True) for one in ALLOWED), *((one, False) for one in FORBIDDEN)]:
        text = f"message {next(_numbers)}"
        writes, reads = ("site-north", "root") if operation.does == "writes" else ("root", "site-north")
        with (
            hub.app(writes, version=version) as writer,
            hub.app(reads, operation.topic, version=version) as reader,
        ):
            writer.publish(operation.topic, text)
            reader.subscribe("$SYS/broker/uptime")  # its acknowledgement comes behind what was published
            happened = any(heard.payload == text.encode() for heard in reader.untaken(operation.topic))
        print(f"{operation.does:6} {operation.topic:44} {'yes' if happened else 'no'}")
        if happened != expected:
            wrong.append((operation, happened))
    assert not wrong


def test_the_hub_knows_when_a_site_is_cut_off_and_when_it_is_back(tmp_path: Path) -> None:
    with (
        Hub(tmp_path, {"north": {"hall": configuration(tmp_path, "n")}}) as hub,
        hub.app("root", "site/#") as above,
    ):
        hub.wait_for_link(above, "north")
        site = hub.sites["north"]
        with site.app("root", "site/north/link") as below:
            below.publish(f"{HALL}/state", {"state": "online"}, retain=True)
            above.take_state(f"site/north/{HALL}", "online")
            hub.cut()
            hub.wait_for_link(above, "north", b"0")
            hub.wait_for_link(below, "north", b"0")  # the site knows it too
            below.publish(f"{HALL}/state", {"state": "offline"}, retain=True)
            below.publish(f"{HALL}/state", {"state": "starting"}, retain=True)
            hub.mend()
            hub.wait_for_link(above, "north")
            assert above.take(f"site/north/{HALL}/state").json["state"] == "starting", "the last one alone"
            site.broker.kill()
            hub.wait_for_link(above, "north", b"0")


def test_its_limits_win_over_the_profile_s_and_what_is_retained_does_not_pile_up(
    tmp_path: Path,
) -> None:
    """Behind ``edgeslm.conf`` in a ``conf.d``; a limit of 10 would drop most of 300."""
    with Hub(tmp_path, {"north": {"hall": configuration(tmp_path, "n")}}, options=("--save-s", "600")) as hub:
        site = hub.sites["north"]
        site.broker.stop()
        places = tmp_path / "conf.d"
        places.mkdir()
        (places / "edgeslm.conf").write_text("max_queued_messages 10\nmax_queued_bytes 2000\n")
        (places / "site-north.conf").write_text(site.broker.more)
        site.broker.more = f"include_dir {places}\n"
        hub.cut()
        site.broker.start()
        with site.app("root") as below:
            below.publish(f"{HALL}/state", {"state": "online"}, retain=True)
            for number in range(300):
                below.publish(f"{HALL}/event/yard", str(number))
            # With each try mosquitto takes up again what is retained.
            tries = "Connecting bridge (step 1)"
            below.wait_until(lambda: site.broker.log.count(tries) >= 3, "the bridge tries again")
        with hub.app("root", "site/#") as above:
            hub.mend()
            came = [int(above.take(f"site/north/{HALL}/event/yard").payload) for _ in range(300)]
            assert came == list(range(300))
            above.take_state(f"site/north/{HALL}", "online")
            with site.app("root") as below:
                below.publish(f"{HALL}/dead", "the last one")
            above.take(f"site/north/{HALL}/dead")
            assert len(above.untaken(f"site/north/{HALL}/state")) <= 1  # one taken, one with the connection


CONFIG = """\
node: hall
broker: {url: "mqtts://broker.local"}
models: {small: {bundle: /b}}
tasks: {triage: {kind: classify, model: small, labels: [a, b]}}
"""


def config(more: str = "") -> Config:
    return parse_config(CONFIG + more)


def settings(site: str = "north", *configs: Config, **how: Any) -> str:
    return bridge_settings(
        plan_bridge(site, HUB, configs or [config()], **how), Path("/keys"), "id", BridgeQueue()
    )


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"site": "North"}, "a site's name may hold a-z"),
        ({"site": "+"}, "a site's name may hold a-z"),
        ({"site": "n" * 60}, "1 to 59"),
        ({"hub": "mqtt://hub"}, "speaks TLS alone"),
        ({"hub": "mqtts://me:word@hub"}, "leave out the user"),
        ({"hub": "mqtts://"}, "names no host"),
        ({"hub": "mqtts://hub/x"}, "something after the port"),
        ({"hub": "mqtts://h_b"}, "neither the name of a host"),
        ({"hub": "mqtts://[fe80::1%25a b]"}, "neither the name of a host"),
        ({"up": ["#"]}, "requests and commands stay"),
        ({"up": ["+/v1/+/req/triage"]}, "requests and commands stay"),
        ({"up": ["edgeslm/v1/pool/#"]}, "requests and commands stay"),
        ({"up": ["edgeslm/v1/hall/ctl/reload/res"]}, "requests and commands stay"),
        ({"up": ["site/+/x"]}, "is of other sites"),
        ({"up": ["$SYS/broker/uptime"]}, "the broker's own"),
        ({"up": ["edgeslm/v1/hall/event/yard"]}, "goes up already"),
        ({"up": ["a/+", "a/b"]}, "goes up already"),
        ({"up": ["a b"]}, "white space"),
        ({"up": ["a\nlistener 1883"]}, "control character"),
        ({"up": [""]}, "is empty"),
        ({"guard": ["a/#/b"]}, "has a # that is not"),
        ({"down": ["hall/other"]}, "no configuration has such"),
        ({"down": ["attic/triage"]}, "no configuration has such"),
        ({"down": ["triage"]}, "no configuration has such"),
        ({"down": ["hall/triage"]}, "add site/north/edgeslm/v1/hall/res/# to its replies"),
    ],
)
def test_what_can_t_be_is_one_sentence(how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProvisionError, match=sentence):
        plan_bridge(how.pop("site", "north"), how.pop("hub", HUB), [config()], **how)


KNOWN = {
    *("connection", "address", "bridge_cafile", "bridge_certfile", "bridge_keyfile", "bridge_tls_version"),
    *("bridge_insecure", "bridge_protocol_version", "try_private", "cleansession", "local_clientid"),
    *("remote_clientid", "start_type", "restart_timeout", "keepalive_interval", "bridge_attempt_unsubscribe"),
    *("notifications", "notifications_local_only", "notification_topic", "topic"),
    *("max_queued_messages", "max_queued_bytes"),
}

words = st.text(st.characters(codec="utf-8"), max_size=20)


@given(words, words, st.lists(words | st.from_regex(r"[a-z+/#]{1,12}", fullmatch=True), max_size=3))
@example("north", "hub.example.com", ["a/b"])
@example("north", "hub:1\nuser root", ["a\u2028b", "a\x85b"])
def test_no_argument_writes_a_line_of_its_own(site: str, host: str, up: list[str]) -> None:
    try:
        bridge = plan_bridge(site, f"mqtts://{host}", [config()], up=up)
        text, access = (
            bridge_settings(bridge, Path("/keys"), "id", BridgeQueue()),
            render([hub_access(bridge)]),
        )
    except ProvisionError:
        return
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert {line.split(" ")[0] for line in lines} == KNOWN
    assert len(lines) == len(KNOWN) - 1 + len(bridge.topics)
    mapped = [line for line in lines if line.startswith("topic")]
    assert mapped.pop() == 'topic edgeslm/# in 0 from-hub/ ""'
    assert all(line.endswith(f' "" site/{site}/') for line in mapped)
    granted = [line for line in access.split("\n") if line.startswith(("topic", "user", "pattern"))]
    assert granted[0] == f"user site-{site}"
    assert all(line.startswith(f"topic write site/{site}/") for line in granted[1:])


def test_prefixes_of_several_levels_and_of_several_nodes() -> None:
    text = settings("north", config(), config("prefix: acme/slm\n"), results=True)
    assert 'topic acme/slm/v1/+/state out 0 "" site/north/\n' in text
    assert 'topic edgeslm/v1/+/res/# out 1 "" site/north/\n' in text
    assert 'topic acme/slm/v1/pool/+/res/# out 1 "" site/north/\n' in text


def test_guards_stand_for_what_nodes_and_routes_read_and_none_takes_what_may_come_down() -> None:
    replies = "replies: ['site/north/edgeslm/v1/hall/res/#']\n"
    one = config(
        f"{replies}routes:\n"
        "- {from: factory/+/log, task: triage}\n"
        "- {from: edgeslm/v1/other/event/x, task: triage}\n"
        "- {from: a level/x, task: triage}\n"
        "- {from: site/#, task: triage}\n"
    )

    def guards(**how: Any) -> list[str]:
        topics = plan_bridge("north", HUB, [one], **how).topics
        return [mapping.filter for mapping in topics if mapping.is_guard]

    assert guards() == ["edgeslm/#", "factory/+/log", "+/x", "site/#"]
    assert guards(guard=["factory/#"]) == ["edgeslm/#", "factory/#", "+/x", "site/#"]
    assert guards(down=["hall/triage"]) == ["edgeslm/#", "factory/+/log", "+/x"]
    notes = unsent(plan_bridge("north", HUB, [one], down=["hall/triage"]), [one])
    (note,) = [note for note in notes if "taken over" in note]
    assert "reads site/#, below which requests may come down" in note
    with pytest.raises(ProvisionError, match="site/north/edgeslm/v1/hall/req/triage may come down"):
        guards(down=["hall/triage"], guard=["#"])


def test_how_much_waits_is_told_by_rate_and_hours() -> None:
    assert (BridgeQueue().messages, BridgeQueue().bytes) == (28_800, LEAST_QUEUED[1])
    assert BridgeQueue(0.01, 1).messages == LEAST_QUEUED[0]
    waiting = BridgeQueue(10, 24, 2000)
    assert (waiting.messages, waiting.bytes) == (864_000, 1_728_000_000)
    with pytest.raises(ProvisionError, match="keeps them in memory"):
        _ = BridgeQueue(1000, 24).messages
    bridge = plan_bridge("north", HUB, [config()])
    assert "autosave" not in bridge_settings(bridge, Path("/keys"), "id", BridgeQueue())
    assert "\nautosave_interval 30\n" in bridge_settings(bridge, Path("/keys"), "id", BridgeQueue(save_s=30))
    with pytest.raises(ProvisionError, match="can't stand"):
        bridge_settings(bridge, Path("/keys\nlistener 1"), "id", BridgeQueue())


def test_routes_whose_results_stay_and_those_that_are_sent_again_are_told_of() -> None:
    one = config(
        "routes:\n"
        "- {from: a/+, task: triage, name: stays, to: 'b/{{ topic[1] }}'}\n"
        "- {from: c/+, task: triage, name: kept, retain: true}\n"
        "- {from: d/+, task: triage, name: goes}\n"
    )
    stays, kept = unsent(plan_bridge("north", HUB, [one]), [one])
    assert stays == "the results of hall's route stays stay at the site; --up b/+ sends them"
    assert kept.startswith("hall's route kept has its results retained")
    assert len(unsent(plan_bridge("north", HUB, [one], up=["b/#"]), [one])) == 1
