"""Collections that can't be opened, watched folders that aren't there, and what the service can't see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli.doctor.documents import judge_collections, judge_homes
from edgeslm.cli.doctor.probes import SERVICE, Probes
from edgeslm.config.loader import Config, parse_config
from edgeslm.knowledge.index.collection import Collection
from tests.support.boards import put


def config_of(**sections: Any) -> Config:
    knowledge = sections.pop("knowledge")
    made = {
        "node": "n",
        "broker": {"url": "mqtt://localhost"},
        "models": {},
        "tasks": {"find": {"kind": "search", "knowledge": list(knowledge)}},
        "knowledge": knowledge,
        **sections,
    }
    return parse_config(json.dumps(made))


def test_collections_are_opened(tmp_path: Path) -> None:
    with Collection(tmp_path / "whole", writes=True):
        pass
    (tmp_path / "broken.sqlite").write_bytes(b"no database at all" * 100)
    names = ("whole", "broken", "gone")
    found = judge_collections(config_of(knowledge={name: {"path": str(tmp_path / name)} for name in names}))
    assert [(one.subject, one.level) for one in found] == [
        ("collection whole", "ok"),
        ("collection broken", "bad"),
        ("collection gone", "bad"),
    ]
    assert found[0].text == "0 documents"
    assert all(one.advice for one in found[1:])


def test_a_watched_collection_is_made_by_the_node_but_its_folder_must_be_there(tmp_path: Path) -> None:
    manuals = {"path": str(tmp_path / "new"), "watch": [str(tmp_path), str(tmp_path / "none")]}
    collection, watched = judge_collections(config_of(knowledge={"manuals": manuals}))
    assert collection.level == "ok" and "the node makes it" in collection.text
    assert watched.level == "warn" and watched.text == f"{tmp_path / 'none'} isn't there"


class Machine(Probes):
    def __init__(self, root: Path, *, service: bool) -> None:
        self.root = root
        if service:
            put(root, f"usr/lib/{SERVICE}", "")


def test_what_lies_in_a_home_is_told_where_the_service_is_installed(tmp_path: Path) -> None:
    machine, file = Machine(tmp_path, service=True), Path("/etc/edgeslm/edgeslm.yaml")
    knowledge = {"k": {"path": "/srv/k", "watch": ["/home/pi/manuals"]}}
    (finding,) = judge_homes(config_of(knowledge=knowledge), file, machine)
    assert finding.level == "warn" and finding.text.endswith(": /home/pi/manuals")
    assert judge_homes(config_of(knowledge={"k": {"path": "/srv/k"}}), file, machine) == []


def test_a_node_run_from_a_home_needs_nothing_of_the_service(tmp_path: Path) -> None:
    config = config_of(knowledge={"k": {"path": "/home/pi/k"}}, state_dir="/home/pi/state")
    assert judge_homes(config, Path("/home/pi/hall.yaml"), Machine(tmp_path / "both", service=True)) == []
    assert judge_homes(config, Path("/etc/hall.yaml"), Machine(tmp_path / "package", service=False)) == []


def test_the_default_state_folder_of_a_user_is_not_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/pi/.local/state")
    config = config_of(knowledge={"k": {"path": "/srv/k"}})
    assert str(config.state_dir).startswith("/home/pi/")
    assert judge_homes(config, Path("/etc/edgeslm/edgeslm.yaml"), Machine(tmp_path, service=True)) == []


def test_a_state_folder_in_a_home_that_the_file_names_is_told_even_if_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/pi/.local/state")
    config = config_of(knowledge={"k": {"path": "/srv/k"}}, state_dir="/home/pi/.local/state/edgeslm")
    (finding,) = judge_homes(config, Path("/etc/edgeslm/edgeslm.yaml"), Machine(tmp_path, service=True))
    assert finding.text.endswith(": /home/pi/.local/state/edgeslm")
