"""provision/access.py: a node may use what its configuration makes it use, an app what it was given."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.cli.provision.access import User, app_user, node_user, parse_access, render, too_wide
from edgeslm.config.loader import Config, parse_config
from edgeslm.errors import ProvisionError
from edgeslm.node.routes.route import RouteReader, RouteWork
from edgeslm.protocol.topics import Topics

BASE = "edgeslm/v1/hall"


def configured(**changes: Any) -> Config:
    whole = {
        "node": "hall",
        "broker": {"url": "mqtt://localhost"},
        "models": {"small": {"bundle": "/b"}},
        "tasks": {
            "triage": {"kind": "classify", "model": "small", "labels": ["a", "b"]},
            "gist": {"kind": "summarize", "model": "small"},
        },
        **changes,
    }
    return parse_config(yaml.safe_dump(whole))


# --- whatever the configuration ----------------------------------------------------------------------

WORDS = ("factory", "hall", "log", "3", "a b", "é")
FOREIGN = st.lists(st.sampled_from(("private", "bank", "3")), min_size=1, max_size=3).map(
    lambda levels: "/".join(["elsewhere", *levels])
)
"""Topics that no generated configuration has to do with."""

sources = st.builds(
    lambda first, levels, last: "/".join([first, *levels, *last]),
    st.sampled_from(("factory", "yard")),
    st.lists(st.sampled_from((*WORDS, "+")), max_size=3),
    st.sampled_from(([], ["#"])),
)
pieces = st.sampled_from(
    (
        *("label", "{{ topic[1] }}", "{{ topic[-1] }}", "{{ payload.kind }}", "x-{{ payload.kind }}"),
        *("{{ topic[1] }}-{{ payload }}", "{{ topic[0:2] | join('/') }}", "{{ topic_name }}", "é"),
    )
)
targets = st.one_of(
    st.none(), st.lists(pieces, min_size=1, max_size=3).map(lambda levels: "/".join(["out", *levels]))
)
routes = st.lists(st.fixed_dictionaries({"from": sources, "to": targets}), max_size=3)


def topics_of(source: str) -> st.SearchStrategy[str]:
    """Topics that fit a filter."""

    def fill(level: str) -> st.SearchStrategy[list[str]]:
        if level == "#":
            return st.lists(st.sampled_from(WORDS), max_size=2)
        return st.sampled_from(WORDS).map(lambda word: [word]) if level == "+" else st.just([level])

    return st.tuples(*map(fill, source.split("/"))).map(
        lambda parts: "/".join(level for part in parts for level in part)
    )


payloads = st.sampled_from((b"text", b'{"kind": "smell"}', b'{"kind": "a/b"}', b'{"kind": 7}', b"7"))


@given(st.data(), routes)
def test_every_topic_that_a_node_uses_is_allowed(data: st.DataObject, made: list[dict[str, Any]]) -> None:
    config = configured(
        routes=[
            {"task": "triage", "name": f"r{n}", **{k: v for k, v in one.items() if v}}
            for n, one in enumerate(made)
        ]
    )
    user, topics = node_user(config), Topics("hall")
    task = data.draw(st.sampled_from((*config.tasks, "unknown")))
    for topic in (topics.request(task), topics.cancel, topics.feedback):
        assert user.may("read", topic)
    reply = data.draw(topics_of(data.draw(st.sampled_from(config.replies))))
    for topic in (
        topics.state,
        topics.info,
        topics.health,
        topics.dead,
        topics.result(task),
        reply,
        topics.stream(reply),
    ):
        assert user.may("write", topic)
    for route in config.routes:
        topic = data.draw(topics_of(route.source))
        assert user.may("read", topic)
        work = RouteReader(route, config.base).consider(topic, data.draw(payloads), False, 0.0)
        if isinstance(work, RouteWork):
            assert user.may("write", work.topic), (route.to, topic)


@given(routes, FOREIGN)
def test_no_other_topic_is_allowed(made: list[dict[str, Any]], foreign: str) -> None:
    config = configured(
        routes=[
            {"task": "triage", "name": f"r{n}", **{k: v for k, v in one.items() if v}}
            for n, one in enumerate(made)
        ]
    )
    user = node_user(config)
    others = [
        f"edgeslm/v1/other/{channel}" for channel in ("state", "req/triage", "cancel", "ctl/reload", "dead")
    ]
    own = [f"{BASE}/req/triage", f"{BASE}/cancel", f"{BASE}/feedback", f"{BASE}/ctl/reload"]
    for topic in (foreign, "$SYS/broker/uptime", *others):
        assert not user.may("write", topic)
        assert not user.may("read", topic)
    assert not any(user.may("write", topic) for topic in own), "it would tell itself what to do"


def test_senders_of_corrections_have_topics_of_their_own() -> None:
    config = configured(feedback={"senders": ["desk"]})
    node, desk = node_user(config), app_user("desk:feedback=hall", [config])
    own, other = f"{BASE}/feedback/desk", f"{BASE}/feedback/guest"
    assert node.may("read", own) and not node.may("read", other) and not node.may("read", f"{BASE}/feedback")
    assert desk.may("write", own) and not desk.may("write", other)
    with pytest.raises(ProvisionError, match="keeps no corrections of guest"):
        app_user("guest:feedback=hall", [config])


# --- one by one --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "to", "expected"),
    [
        ("factory/+/log", None, f"{BASE}/event/triage"),
        ("factory/+/log", "factory/{{ topic[1] }}/label", "factory/+/label"),
        ("factory/3/log", "factory/{{ topic[1] }}/label", "factory/3/label"),
        ("factory/+/log", "{{ topic_name }}/label", "factory/+/log/label"),
        ("factory/#", "out/{{ topic_name }}/label", "out/factory/#"),
        ("factory/#", "out/{{ payload.kind }}", "out/+"),
        ("factory/#", "out/{{ topic[1:] | join('/') }}/x", "out/+/#"),
    ],
)
def test_a_template_becomes_the_narrowest_filter(source: str, to: str | None, expected: str) -> None:
    route = {"from": source, "task": "triage"} | ({"to": to} if to else {})
    written = [
        one.filter for one in node_user(configured(routes=[route])).grants if one.why == "route triage"
    ]
    assert written == [source, expected]


def test_what_home_assistant_is_told_may_be_told_and_its_start_be_heard() -> None:
    silent, told = node_user(configured()), node_user(configured(discovery={"prefix": "homeassistant"}))
    config = "homeassistant/sensor/edgeslm_hall/task_triage/config"
    assert told.may("write", config) and told.may("read", "homeassistant/status")
    assert not silent.may("write", config) and not silent.may("read", "homeassistant/status")
    assert not told.may("write", config.replace("edgeslm_hall", "edgeslm_yard"))
    assert not told.may("write", "homeassistant/status")


def test_a_route_that_only_remembers_writes_nothing() -> None:
    config = configured(knowledge={"log": {"path": "/k"}}, routes=[{"from": "factory/+", "remember": "log"}])
    assert [one.access for one in node_user(config).grants if one.why == "route log"] == ["read"]


def test_questions_go_to_the_named_node_and_answers_come_below_this_nodes_name() -> None:
    tasks = {
        "manual": {"kind": "answer", "model": "small", "knowledge": ["m"], "escalate": "node:server/manual"},
    }
    user = node_user(configured(tasks=tasks, knowledge={"m": {"path": "/k"}}))
    assert user.may("write", "edgeslm/v1/server/req/manual")
    assert user.may("read", "edgeslm/v1/server/res/manual/hall/app-1/stream")
    assert user.may("read", "edgeslm/v1/server/state")
    assert user.may("write", "edgeslm/v1/server/cancel"), "what nobody waits for any more"
    assert not user.may("read", "edgeslm/v1/server/res/manual/desk/app-1")


def test_a_target_that_is_all_template_is_told_of() -> None:
    def wide(to: str) -> list[str]:
        config = configured(routes=[{"from": "factory/+", "task": "triage", "to": to}])
        return [one.filter for one in too_wide(node_user(config), "edgeslm")]

    anywhere = "/".join("{{ payload." + name + " }}" for name in "abcde")
    assert wide(anywhere) == ["+/+/+/+/+"]
    assert wide(f"labels/{anywhere}") == []


def test_a_node_with_another_prefix() -> None:
    user = node_user(configured(prefix="plant/slm"))
    assert user.may("read", "plant/slm/v1/hall/req/triage")
    assert not user.may("read", f"{BASE}/req/triage")


# --- apps --------------------------------------------------------------------------------------------


def test_an_app_asks_the_tasks_it_was_given_and_reads_its_own_results() -> None:
    desk = app_user("desk:triage,hall/gist", [configured()])
    assert desk.may("write", f"{BASE}/req/triage")
    assert desk.may("write", f"{BASE}/req/gist")
    assert desk.may("read", f"{BASE}/res/gist/desk/app-1/stream")
    assert desk.may("read", f"{BASE}/info")
    for topic in (f"{BASE}/res/gist", f"{BASE}/res/gist/phone/app-1", f"{BASE}/req/gist"):
        assert not desk.may("read", topic)
    assert not desk.may("write", f"{BASE}/cancel")


def test_commands_are_allowed_as_far_as_the_node_takes_them() -> None:
    assert not node_user(configured()).may("read", f"{BASE}/ctl/reload")
    config = configured(control={"allow": ["reload", "models"]})
    node, lead = node_user(config), app_user("lead:control=hall/models,control=hall/reload", [config])
    for command in ("reload", "models/stage"):
        assert node.may("read", f"{BASE}/ctl/{command}")
        assert node.may("write", f"{BASE}/ctl/{command}/res")
        assert lead.may("write", f"{BASE}/ctl/{command}")
        assert lead.may("read", f"{BASE}/ctl/{command}/res")
    assert not node.may("read", f"{BASE}/ctl/drain")
    assert not node.may("write", f"{BASE}/ctl/reload")
    with pytest.raises(ProvisionError, match="doesn't take the command 'drain'"):
        app_user("lead:control=hall/drain", [config])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("desk:triag", "no task 'triag'; there is triage"),
        ("desk:hull/triage", "no configuration is of a node 'hull'; there is hall"),
        ("desk:reed=a/b", "reed= is unknown"),
        ("desk:read=a/#/b", "not a whole level"),
        ("de sk:triage", "can't be a client's name"),
        ("desk:cancel=hull", "no configuration is of a node 'hull'"),
    ],
)
def test_what_an_app_cannot_be_given_is_told(text: str, why: str) -> None:
    with pytest.raises(ProvisionError, match=why):
        app_user(text, [configured()])


def test_a_task_of_several_nodes_needs_its_node() -> None:
    with pytest.raises(ProvisionError, match="which node's task is 'triage'"):
        app_user("desk:triage", [configured(), configured(node="server")])


# --- the file ----------------------------------------------------------------------------------------


def test_the_list_names_each_client_once_and_says_why() -> None:
    text = render([node_user(configured()), app_user("desk:triage", [configured()])])
    assert "\nuser hall\n" in text
    assert "\nuser desk\n# asks triage\ntopic write edgeslm/v1/hall/req/triage\n" in text
    assert "\ntopic read $SYS/broker/publish/messages/dropped\n" in text
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "user "))]
    assert all(
        line.split(" ")[:1] == ["topic"] and line.split(" ")[1] in ("read", "write", "readwrite")
        for line in lines
    )


def test_two_clients_of_one_name_are_refused() -> None:
    with pytest.raises(ProvisionError, match="two clients are called 'hall'"):
        render([node_user(configured()), User("hall", ())])


def test_a_topic_that_the_file_cannot_hold_is_refused() -> None:
    with pytest.raises(ProvisionError, match="white space"):
        render([node_user(configured(routes=[{"from": "factory/ ", "task": "triage"}]))])


def test_a_list_that_was_written_is_read_again() -> None:
    users = [node_user(configured()), app_user("desk:triage,read=a b/#", [configured()])]
    assert [(user.name, set(user.grants)) for user in parse_access(render(users))] == [
        (user.name, set(user.grants)) for user in users
    ]
