"""What differs between two configurations, and what of that a running node takes up."""

from __future__ import annotations

from typing import Any

import yaml

from edgeslm.config.diff import Changes, changes_between
from edgeslm.config.loader import Config, parse_config

FIRST: dict[str, Any] = {
    "node": "hall",
    "broker": {"url": "mqtt://broker"},
    "models": {"small": {"bundle": "/bundles/small"}},
    "tasks": {"say": {"kind": "generate", "model": "small"}},
}


def config(**changes: Any) -> Config:
    return parse_config(yaml.safe_dump({**FIRST, **changes}))


def test_the_same_file_changes_nothing() -> None:
    assert not changes_between(config(), config())


def test_changed_tasks_and_models_are_named() -> None:
    new = config(
        models={"small": {"bundle": "/bundles/other"}, "more": {"bundle": "/bundles/more"}},
        tasks={"tell": FIRST["tasks"]["say"]},
    )
    found = changes_between(config(), new)
    assert found == Changes(("models.small", "models.more", "tasks.say", "tasks.tell"), ())


def test_what_makes_it_another_node_waits_for_a_restart() -> None:
    new = config(node="yard", broker={"url": "mqtt://other"}, limits={"queue": 4}, log_level="debug")
    found = changes_between(config(), new)
    assert set(found.restart_required) == {"node", "broker", "limits"}
    assert found.reloadable == ("log_level",)
