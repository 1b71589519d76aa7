"""A member of a pool: its filters, what it remembers, and to whom a request was sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.config.sections import Pool
from edgeslm.dispatcher.topics import PoolTopics
from edgeslm.node.pool_membership import Membership
from edgeslm.protocol.topic_filters import matches
from edgeslm.protocol.topics import Topics

OWN = Topics("hall", "plant")
SHARE = "$share/triage/plant/v1/pool/triage/req/topic"
CANCEL = "plant/v1/pool/triage/cancel"


def pool(name: str = "triage", *tasks: str, by: str = "share") -> Pool:
    return Pool.model_validate_json(json.dumps({"name": name, "tasks": tasks or ("topic",), "by": by}))


def member(file: Path, of: Pool | None) -> Membership:
    membership = Membership(OWN, of, file)
    membership.open()
    return membership


def filters(membership: Membership) -> list[str]:
    return [one.filter for one in membership.subscriptions]


def test_a_member_has_its_share_from_joining_to_leaving(tmp_path: Path) -> None:
    membership = member(tmp_path / "pools.json", pool())
    assert filters(membership) == []
    membership.join()
    assert filters(membership) == [SHARE, CANCEL]
    assert membership.left_over == []
    assert membership.leave() == [SHARE, CANCEL]
    assert filters(membership) == []
    assert membership.left_over == [SHARE, CANCEL]  # should the connection break before the broker knows


def test_a_node_that_is_stopped_while_its_models_load_stays_out(tmp_path: Path) -> None:
    membership = member(tmp_path / "pools.json", pool())
    assert membership.leave() == []
    membership.join()
    assert filters(membership) == []


@pytest.mark.parametrize("of", [None, pool(by="dispatcher")])
def test_who_has_no_share_subscribes_to_nothing(tmp_path: Path, of: Pool | None) -> None:
    membership = member(tmp_path / "pools.json", of)
    membership.join()
    assert filters(membership) == []
    assert membership.leave() == []
    assert not (tmp_path / "pools.json").exists()


def test_a_dispatcher_hears_of_its_members_whatever_their_replies_say(tmp_path: Path) -> None:
    file = tmp_path / "pools.json"
    assert member(file, None).replies == member(file, pool()).replies == []
    (allowed,) = member(file, pool(by="dispatcher")).replies
    assert matches(allowed, PoolTopics("triage", "plant").reply("topic", "hall"))
    assert not matches(allowed, PoolTopics("triage", "plant").reply("topic", "yard"))


@pytest.mark.parametrize("now", [None, pool("triage", "fields"), pool("other"), pool(by="dispatcher")])
def test_a_share_from_before_is_given_back_and_what_it_brought_is_still_served(
    tmp_path: Path, now: Pool | None
) -> None:
    file = tmp_path / "pools.json"
    member(file, pool()).join()
    later = member(file, now)
    assert SHARE in later.left_over
    assert (CANCEL in later.left_over) == (now != pool("triage", "fields"))
    assert later.addressee("plant/v1/pool/triage/req/topic") == (Topics.of_pool("triage", "plant"), "topic")


def test_a_member_that_starts_again_keeps_the_share_that_its_session_has(tmp_path: Path) -> None:
    file = tmp_path / "pools.json"
    member(file, pool()).join()
    assert member(file, pool()).left_over == []


def test_another_pool_while_it_runs(tmp_path: Path) -> None:
    membership = member(tmp_path / "pools.json", pool())
    membership.join()
    membership.take_up(pool("other"))
    assert filters(membership)[0] == "$share/other/plant/v1/pool/other/req/topic"
    assert membership.left_over == [SHARE, CANCEL]
    assert membership.is_for_a_pool("plant/v1/pool/triage/req/topic")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"triage": 1, "x": [2]}', "[" * 5000])
def test_a_damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "pools.json").write_text(text)
    assert member(file, None).left_over == []


def test_a_file_that_cannot_be_written_is_no_reason_to_stay_out(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    membership = member(tmp_path / "in-the-way" / "pools.json", pool())
    membership.join()
    assert filters(membership) == [SHARE, CANCEL]


@pytest.mark.parametrize(
    ("topic", "node", "task"),
    [
        ("plant/v1/hall/req/say", "hall", "say"),
        ("plant/v1/pool/triage/req/topic", "pool/triage", "topic"),
        ("plant/v1/pool/triage/req/unheard", "pool/triage", "unheard"),
    ],
)
def test_to_whom_a_request_was_sent(tmp_path: Path, topic: str, node: str, task: str) -> None:
    membership = member(tmp_path / "pools.json", pool())
    assert membership.addressee(topic) == (Topics(node, "plant"), task)
    assert membership.is_for_a_pool(topic) == node.startswith("pool/")


@pytest.mark.parametrize("topic", ["plant/v1/pool/other/req/topic", "plant/v1/hall/cancel", "factory/log"])
def test_what_is_no_request(tmp_path: Path, topic: str) -> None:
    assert member(tmp_path / "pools.json", pool()).addressee(topic) is None


def test_whose_requests_are_cancelled(tmp_path: Path) -> None:
    membership = member(tmp_path / "pools.json", pool())
    assert membership.cancelled("plant/v1/hall/cancel") == OWN
    assert membership.cancelled(CANCEL) == Topics.of_pool("triage", "plant")
    assert membership.cancelled("plant/v1/pool/other/cancel") is None
