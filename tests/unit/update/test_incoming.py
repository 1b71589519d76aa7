"""The folder into which bundles are put."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.update.incoming import Incoming
from tests.support.nodes import dug, write_bundle

MODELS = ("small", "encoder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


@pytest.fixture
def incoming(folder: Path, tmp_path: Path) -> Incoming:
    return Incoming(folder, tmp_path / "taken.json")


def test_what_is_still_being_written_is_left_alone(incoming: Incoming, folder: Path) -> None:
    bundle = write_bundle(folder / "small")
    assert incoming.look(MODELS) == []
    (bundle / "more.bin").write_bytes(b"1")
    assert incoming.look(MODELS) == []
    (bundle / "more.bin").write_bytes(b"12")
    assert incoming.look(MODELS) == []
    assert [(model, path) for model, path, _ in incoming.look(MODELS)] == [("small", bundle)]


def test_each_is_taken_once_also_over_a_restart(incoming: Incoming, folder: Path, tmp_path: Path) -> None:
    (folder / "encoder.tar.gz").write_bytes(b"packed")
    incoming.look(MODELS)
    ((model, _, mark),) = incoming.look(MODELS)
    assert model == "encoder"
    incoming.begin(model, mark)
    incoming.end(model, mark)
    assert incoming.look(MODELS) == []
    again = Incoming(folder, tmp_path / "taken.json")
    assert [again.look(MODELS), again.look(MODELS)] == [[], []]
    (folder / "encoder.tar.gz").write_bytes(b"packed anew")
    again.look(MODELS)
    assert len(again.look(MODELS)) == 1


def test_what_was_cut_short_is_taken_once_more_and_not_for_ever(folder: Path, tmp_path: Path) -> None:
    (folder / "encoder.tar.gz").write_bytes(b"packed")
    found = []
    for _ in range(4):  # each a life of a node that ends while it takes it
        incoming = Incoming(folder, tmp_path / "taken.json")
        incoming.look(MODELS)
        found.append(incoming.look(MODELS))
        for model, _, mark in found[-1]:
            incoming.begin(model, mark)
    assert [len(each) for each in found] == [1, 1, 0, 0]


def test_what_comes_at_a_bad_moment_is_found_again(incoming: Incoming, folder: Path) -> None:
    (folder / "encoder.tar.gz").write_bytes(b"packed")
    incoming.look(MODELS)
    for _ in range(5):
        ((model, _, mark),) = incoming.look(MODELS)
        incoming.begin(model, mark)
        incoming.end(model, mark, again=True)


def test_a_damaged_record_forgets(incoming: Incoming, folder: Path, tmp_path: Path) -> None:
    (folder / "encoder.tar.gz").write_bytes(b"packed")
    for words in ("[1]", "{", '{"encoder": "a mark of an older version"}', '{"encoder": {"mark": "x"}}'):
        (tmp_path / "taken.json").write_text(words)
        incoming.look(MODELS)
        assert len(incoming.look(MODELS)) == 1


def test_what_is_named_like_no_model_is_nobody_s(incoming: Incoming, folder: Path) -> None:
    write_bundle(folder / "large")
    (folder / "small.zip").write_bytes(b"1")
    (folder / "small.tar.part").write_bytes(b"1")
    (folder / "encoder").mkdir()
    assert [incoming.look(MODELS), incoming.look(MODELS)] == [[], []]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path / "nowhere", tmp_path / "taken.json")
    assert incoming.look(MODELS) == []
    assert incoming.problem is not None
    assert "can't be read" in incoming.problem


def test_a_folder_that_is_too_deep_holds_up_no_other(incoming: Incoming, folder: Path) -> None:
    for model in MODELS:
        write_bundle(folder / model)
    with dug(folder / "small"):
        incoming.look(MODELS)
        assert {model for model, _, _ in incoming.look(MODELS)} == set(MODELS)
