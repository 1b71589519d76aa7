from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.dispatcher.members import FORGET_S, MOST_MEMBERS, MOST_NODES, MOST_PROBLEMS, Members
from edgeslm.dispatcher.settings import Wanted
from tests.support.dispatcher.fake_members import DIGEST, info, state


def one(members: Members, document: bytes = info()) -> Members:
    members.hear("n1", "info", document)
    members.hear("n1", "state", state())
    return members


def test_a_member_does_the_tasks_that_it_names_for_the_pool() -> None:
    members = one(Members("triage", None))
    assert members.doing("label") == ["n1"] and members.doing("other") == []
    assert members.models("label") == {DIGEST}
    assert not one(Members("another", None)).known


def test_only_who_is_online_is_asked_and_who_is_away_still_offers() -> None:
    members = Members("triage", None)
    assert members.hear("n1", "info", info()) == "changed"
    assert members.doing("label") == []
    for name, news in (("starting", "left"), ("online", "ready"), ("online", None), ("offline", "ended")):
        assert members.hear("n1", "state", state(name)) == news
    assert members.doing("label") == [] and members.is_offered("label")
    members.hear("n1", "info", b"")
    assert not members.is_offered("label"), "the broker was told to forget it"


def test_a_node_that_was_away_for_a_week_is_forgotten() -> None:
    members = one(Members("triage", None))
    members.hear("n2", "info", info())
    assert members.forget_gone(0.0) == []
    assert members.forget_gone(FORGET_S - 1) == []
    assert members.forget_gone(FORGET_S) == ["n2"]
    assert members.known == {"n1": "online"}
    members.hear("n1", "state", state("offline"))
    members.forget_gone(FORGET_S)
    members.hear("n1", "state", state("online"))
    members.hear("n1", "state", state("offline"))
    assert members.forget_gone(2 * FORGET_S) == [], "it was online in between"
    before = members.version
    assert members.forget_gone(3 * FORGET_S) == ["n1"]
    assert members.version > before and not members.is_offered("label")


def test_what_may_have_changed_is_counted() -> None:
    members = Members("triage", None)
    versions = [members.version]
    for kind, document in (
        ("state", state()),  # nobody knows yet that it is a member
        ("info", info()),
        ("state", state("offline")),
        ("state", state("offline")),
        ("health", b'{"queue": 3}'),
        ("info", info(pool=None)),
        ("info", info(pool=None)),
    ):
        members.hear("n1", kind, document)
        versions.append(members.version)
    assert versions == [0, 0, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("wanted", "does"),
    [
        (Wanted(), True),
        (Wanted(kind="classify", model=DIGEST), True),
        (Wanted(model="sha256:1f3a"), True),
        (Wanted(model="sha256:ffff"), False),
        (Wanted(kind="extract"), False),
    ],
)
def test_a_task_is_given_to_who_has_what_it_needs(wanted: Wanted, does: bool) -> None:
    members = one(Members("triage", {"label": wanted}))
    assert (members.doing("label") == ["n1"]) is does
    assert bool(members.problems) is not does


def test_who_takes_requests_from_the_broker_too_is_left_out_and_told_of() -> None:
    pool = {"name": "triage", "tasks": ["label"], "by": "share"}
    members = one(Members("triage", None), _changed(pool=pool))
    assert not members.doing("label")
    assert members.problems == [
        "Node n1 is left out: it takes the pool's requests from the broker too, so that all would be run "
        "twice; set `pool: by: dispatcher` there."
    ]


def test_a_node_one_protocol_apart_is_a_member_and_one_further_apart_is_left_out() -> None:
    assert one(Members("triage", None), _changed(protocol=2)).known
    for protocol in (3, None, "1", True):
        members = one(Members("triage", None), _changed(protocol=protocol))
        assert "too far from 1" in members.problems[0] and not members.known


def _changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(info()), **changes}).encode()


def test_inventions_do_not_fill_the_memory() -> None:
    members = Members("triage", None)
    for number in range(MOST_MEMBERS + 10):
        members.hear(f"n{number}", "info", info())
    members.hear("n0", "state", json.dumps({"state": "x" * 1000}).encode())
    assert len(members.known) == MOST_MEMBERS and members.known["n0"] == "unknown"
    for number in range(MOST_MEMBERS):
        members.hear(f"n{number}", "info", info(protocol=99))
    assert len(members.problems) == MOST_PROBLEMS + 1
    assert members.problems[-1] == f"{MOST_MEMBERS - MOST_PROBLEMS} more like these."


def test_members_are_found_among_many_nodes_of_others() -> None:
    members = Members("triage", None)
    for number in range(5000):
        members.hear(f"m{number}", "state", state())
        members.hear(f"m{number}", "info", b"{}")
    one(members)
    assert members.doing("label") == ["n1"]
    for number in range(MOST_NODES):
        members.hear(f"m{number}", "state", state())
    members.hear("late", "info", info())
    assert not members.knows("late")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.sampled_from(["state", "info", "health"]),
    st.binary(max_size=40)
    | st.fixed_dictionaries(
        {},
        optional={
            "protocol": st.just(1) | JSON,
            "pool": st.fixed_dictionaries({"name": st.just("triage"), "by": JSON, "tasks": JSON}) | JSON,
            "tasks": JSON,
            "models": JSON,
            "state": JSON,
            "queue": JSON,
        },
    ).map(lambda value: json.dumps(value).encode()),
)
def test_whatever_a_node_says_is_borne(kind: str, payload: bytes) -> None:
    members = one(Members("triage", None))
    members.hear("n1", kind, payload)
    assert isinstance(members.problems, list) and members.busy("n1") >= 0
    members.doing("label")
