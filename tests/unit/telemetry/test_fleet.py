"""The inventory of a fleet: what is read of documents, of other versions too, and what a person sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.telemetry.fleet import FleetNode, differences, entry_of, inventory, is_outdated, newest, table
from edgeslm.telemetry.overview import Painter

NOW = 1_800_000_000.0
INFO = {
    "version": "0.1.0",
    "protocol": 1,
    "tasks": {"triage": {"kind": "classify"}},
    "models": {"small": {"bundle": "smollm2", "digest": "sha256:1bcce68c1f66aa"}},
    "pool": {"name": "hands", "tasks": ["triage"], "by": "share"},
}
HEALTH = {
    "at": NOW - 12,
    "queue": 2,
    "in_flight": 1,
    "results": {"ok": 40, "timeout": 2},
    "drift": {"triage": {"moved": False}},
    "alerts": [],
}


def entry(name: str = "hall", state: str = "online", **changes: Any) -> FleetNode:
    info = {**INFO, **changes.pop("info", {})}
    health = {**HEALTH, **changes.pop("health", {})}
    documents = {"state": {"state": state}, "info": info, "health": health}
    return entry_of(name, documents, NOW, **changes)


def seen(*entries: FleetNode, width: int = 80) -> str:
    return "\n".join(table(entries, width=width, title="fleet", paint=Painter(coloured=False)))


def test_a_node_in_the_inventory() -> None:
    assert inventory([entry()]) == {
        "nodes": [
            {
                "name": "hall",
                "kind": "node",
                "state": "online",
                "up": True,
                "stale": False,
                "age_s": 12.0,
                "version": "0.1.0",
                "protocol": 1,
                "skew": None,
                "site": None,
                "unreachable": False,
                "models": ({"name": "small", "bundle": "smollm2", "digest": "sha256:1bcce68c1f66aa"},),
                "pool": {"name": "hands", "tasks": ["triage"], "by": "share"},
                "tasks": {"triage": "classify"},
                "drift": (),
                "load": {"queue": 2, "in_flight": 1, "requests": 42},
                "alerts": (),
                "members": {},
            }
        ],
        "differences": [],
    }
    assert not entry().needs_a_look


def test_a_row_with_its_models() -> None:
    assert seen(entry("press-hall-4")).splitlines() == [
        "fleet   1 node, 1 up",
        "",
        "NODE         STATE       AGE VERSION   POOL       QUEUE RUN REQUESTS",
        "press-hall-4 online     12 s 0.1.0     hands          2   1       42",
        "  small 1bcce68c1f66 smollm2",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (entry(state="offline"), "offline"),
        (entry(health={"at": NOW - 200}), "stale"),
        (entry(info={"protocol": 3}), "speaks protocol 3"),
        (
            entry(health={"drift": {"triage": {"moved": True}}}),
            "the messages of triage differ from its training data",
        ),
        (entry(health={"alerts": ["The disk is full."]}), "! The disk is full."),
        (entry(site="plant-a", unreachable=True), "cut off"),
    ],
)
def test_what_needs_a_look_is_seen(changed: FleetNode, said: str) -> None:
    assert changed.needs_a_look
    assert said in seen(changed)


def test_one_protocol_apart_is_no_fault_and_what_is_unknown_is_ignored() -> None:
    newer = entry(
        info={"protocol": 2, "colour": "red", "models": {"small": {"digest": "sha256:1", "new": []}}}
    )
    assert (newer.skew, newer.protocol, newer.needs_a_look) == (None, 2, False)


def test_the_clock_of_a_board_that_was_never_set_tells_no_age() -> None:
    for at in (0, 1_000, NOW + 3600, "now", True, None):
        assert entry(health={"at": at}).age_s is None


def test_a_model_that_is_not_the_same_everywhere() -> None:
    other = {"models": {"small": {"bundle": "smollm2", "digest": "sha256:ffff"}}}
    nodes = [entry("a"), entry("b", info=other), entry("c", site="plant-a")]
    (found,) = differences(nodes)
    assert found.model == "small"
    assert found.digests == {"sha256:1bcce68c1f66aa": ("a", "plant-a/c"), "sha256:ffff": ("b",)}
    assert "! small differs: 1bcce68c1f66 on a, plant-a/c; ffff on b" in seen(*nodes)
    assert differences([entry("a"), entry("b")]) == []


def test_who_is_behind_the_newest() -> None:
    nodes = [entry("a"), entry("b", info={"version": "0.10.0"}), entry("c", info={"version": "0.9.2"})]
    far = entry("d", info={"version": "9.0.0", "protocol": 3})
    assert newest([*nodes, far]) == "0.10.0"
    assert [one.name for one in nodes if is_outdated(one, "0.10.0")] == ["a", "c"]
    assert is_outdated(entry(info={"version": None}), None)


def test_a_dispatcher_is_counted_apart_with_its_members() -> None:
    info = {"models": {}, "pool": None, "members": {"hall": "online", "yard": "offline", "x": 1}}
    pool = entry("pool/hands", info=info)
    assert pool.kind == "dispatcher"
    assert pool.members == {"hall": "online", "yard": "offline"}
    assert "fleet   1 node, 1 up, 1 dispatcher" in seen(entry(), pool)
    assert "  members: hall online, yard offline" in seen(pool)
    many = {f"n{number}": "online" for number in range(200)}
    assert entry("pool/hands", info={"members": many}).members == many


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = (
    "version",
    "protocol",
    "models",
    "pool",
    "members",
    "tasks",
    "at",
    "results",
    "drift",
    "alerts",
    "state",
)


@given(
    said=st.dictionaries(st.sampled_from(keys), anything),
    name=st.sampled_from(["hall", "pool/x", "\x1b[2J"]),
    width=st.integers(20, 150),
)
def test_no_document_can_break_it_or_command_a_terminal(said: dict[str, Any], name: str, width: int) -> None:
    one = entry_of(name, {"state": said, "info": said, "health": said}, NOW)
    json.dumps(inventory([one]))
    lines = table([one, one], width=width, title="fleet", paint=Painter(coloured=False))
    assert all(line.isprintable() and len(line) <= max(72, width) for line in lines)
