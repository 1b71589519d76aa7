"""What a pull refuses: other addresses, wrong digests, odd descriptions, folders that can't be served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import main
from edgeslm.errors import BundleError
from edgeslm.update import pull as pulling
from edgeslm.update.downloads import Unreachable
from edgeslm.update.pull import HubId, pull
from edgeslm.update.store import Store
from tests.support.model_hub import ModelHub
from tests.support.nodes import fake_configuration, write_configuration
from tests.support.onnx_bytes import graph, model, tensor, write_ready

WANTED = HubId.parse("maker/tiny:cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_ready(tmp_path / "hub" / "maker" / "tiny" / "cpu")


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    monkeypatch.setattr("edgeslm.update.downloads.PAUSES_S", ())
    with ModelHub(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", "node")


def client(store: Store, hub: ModelHub, budget: int = 10**9) -> pulling.ModelHub:
    return pulling.ModelHub(store, budget_bytes=budget, endpoint=hub.url)


def refuse(store: Store, hub: ModelHub, why: str, wanted: HubId = WANTED) -> None:
    with pytest.raises(BundleError, match=why):
        pull(wanted, store, client(store, hub))
    assert not [path for path, _ in hub.requests if path.endswith(".data")]


@pytest.mark.parametrize(
    "text",
    ["", "../x", "a/b/c", "a/b:../c", "a/b:c/../d", "a/b:.", "a b", "a/b@x y", "a/../b", "-/x", "a:b:c"],
)
def test_what_is_no_hub_id(text: str) -> None:
    with pytest.raises(BundleError, match="not a hub id"):
        HubId.parse(text)


def test_parts_of_a_hub_id() -> None:
    assert HubId.parse("gpt2") == HubId("gpt2", "main", "")
    assert HubId.parse("a/b@v1:c/d/") == HubId("a/b", "v1", "c/d")
    assert str(HubId("a/b", "v1", "c/d")) == "a/b:c/d"


@pytest.mark.parametrize("endpoint", ["http://hub.example", "ftp://127.0.0.1", "http://127.0.0.1.example"])
def test_an_address_without_tls_is_refused(endpoint: str, store: Store) -> None:
    with pytest.raises(BundleError, match="only https:// addresses"):
        pulling.ModelHub(store, budget_bytes=1, endpoint=endpoint)


def test_a_token_is_never_shown(hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\r\n")  # as a file of secrets has it
    assert client(store, hub).describe(WANTED).source.id == WANTED.repo
    monkeypatch.setenv("HF_TOKEN", "hf_ secret")
    with pytest.raises(BundleError, match="HF_TOKEN isn't a token") as caught:
        client(store, hub)
    assert "secret" not in str(caught.value)


def test_another_revision_than_the_wanted_one(hub: ModelHub, store: Store) -> None:
    wanted = HubId(WANTED.repo, "0123456789" * 4, WANTED.inside)
    refuse(store, hub, "it is of the revision", wanted)


def test_a_changed_file_is_refused(hub: ModelHub, store: Store) -> None:
    hub.damaged = {"tokenizer.json"}
    refuse(store, hub, "tokenizer.json: its digest isn't the hub's")
    assert not list(store.folder.glob(".part-*"))


def test_a_changed_large_file_is_refused(hub: ModelHub, store: Store, folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(bytes(20_000))
    hub.damaged = {"model.onnx.data"}
    with pytest.raises(BundleError, match=r"model.onnx.data: its digest isn't the hub's"):
        pull(WANTED, store, client(store, hub))


def test_what_does_not_exist(hub: ModelHub, store: Store) -> None:
    refuse(store, hub, "404", HubId.parse("maker/none"))
    refuse(store, hub, "404", HubId.parse("maker/tiny@gone:cpu"))
    refuse(store, hub, "name one of its folders: cpu", HubId.parse("maker/tiny"))
    refuse(store, hub, "has no genai_config.json", HubId.parse("maker/tiny:gpu"))


def test_a_hostile_folder_is_refused_before_its_weights_are_downloaded(
    hub: ModelHub, store: Store, folder: Path
) -> None:
    (folder / "model.onnx").write_bytes(model(graph({}, tensors=(tensor("../../secret.data", 0, 1),))))
    refuse(store, hub, "leads out of the folder")
    (folder / "genai_config.json").write_text("{")
    refuse(store, hub, "not JSON")


def test_a_model_over_the_budget_is_refused(hub: ModelHub, store: Store, folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(bytes(200_000))
    with pytest.raises(BundleError, match=r"updates.budget_bytes"):
        pull(WANTED, store, client(store, hub, 100_000))
    assert not [path for path, _ in hub.requests if path.endswith(".data")]


ODD: dict[str, dict[str, Any]] = {
    "no list": {"siblings": None},
    "no size": {"siblings": [{"rfilename": "cpu/genai_config.json", "size": None}]},
    "less than nothing": {"siblings": [{"rfilename": "cpu/genai_config.json", "size": -(10**13)}]},
    "endless": {"siblings": [{"rfilename": "cpu/genai_config.json", "size": float("inf")}]},
    "control characters": {"siblings": [{"rfilename": "cpu/a\x1b[2J", "size": 1}]},
    "no revision": {"sha": "../main"},
    "no names": {"siblings": [{}]},
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_description(case: str, hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {**hub.describe("maker/tiny"), **ODD[case]}
    monkeypatch.setattr(hub, "describe", lambda name: described)
    refuse(store, hub, "not the description of a model")


def test_names_that_lead_out_are_never_written(
    hub: ModelHub, store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = hub.describe("maker/tiny")
    names = ["cpu/../../../../evil.json", "cpu/..", "cpu/.", "cpu//evil.json", "cpu/a/../../evil.json"]
    described["siblings"] += [{"rfilename": name, "size": 3, "blobId": "0" * 40} for name in names]
    monkeypatch.setattr(hub, "describe", lambda name: described)
    files = client(store, hub).describe(WANTED).files
    assert set(files) == {file.name for file in folder.iterdir()}
    with pytest.raises(BundleError, match="tiny"):
        pull(WANTED, store, client(store, hub))  # ends where the engine meets weights of zeros
    assert not list(tmp_path.rglob("evil.json"))


def test_a_file_that_is_longer_than_announced_is_cut_off(
    hub: ModelHub, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.onnx.data").write_bytes(bytes(20_000))
    described = hub.describe("maker/tiny")
    (folder / "model.onnx.data").write_bytes(bytes(5_000_000))
    monkeypatch.setattr(hub, "describe", lambda name: described)
    with pytest.raises(BundleError, match=r"model.onnx.data: it has more than the 20000 bytes"):
        pull(WANTED, store, client(store, hub))
    assert list(store.folder.iterdir()) == []


def test_the_budget_is_for_all_files_together(hub: ModelHub, store: Store, folder: Path) -> None:
    weights, small = 50_000, sum(file.stat().st_size for file in folder.iterdir())
    (folder / "model.onnx.data").write_bytes(bytes(weights))
    with pytest.raises(BundleError, match=r"updates.budget_bytes"):
        pull(WANTED, store, client(store, hub, weights + small // 2))
    assert list(store.folder.iterdir()) == [], "no folder of a pull, no part"


def test_a_model_that_the_memory_cant_hold_is_refused_before_its_weights_are_downloaded(
    hub: ModelHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.engine.prepack.ready.rough_memory_bytes", lambda *sizes: 10**15)
    refuse(store, hub, "too large for this machine")


def test_two_pulls_of_the_same_folder(hub: ModelHub, store: Store) -> None:
    folder = store.folder / ".pull-x"
    with (
        pulling._own_folder(folder, "x"),
        pytest.raises(Unreachable, match="being pulled already"),
        pulling._own_folder(folder, "x"),
    ):
        pass


def test_a_node_that_refuses_unsigned_bundles_pulls_nothing(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    (tmp_path / "key.pub").write_text("-----BEGIN PUBLIC KEY-----\n")
    (tmp_path / "state").mkdir()
    signing = {"unsigned": "refuse", "keys": [str(tmp_path / "key.pub")]}
    config = write_configuration(tmp_path, fake_configuration("mqtt://broker", tmp_path, signing=signing))
    assert main.main(["models", "pull", str(config), "maker/tiny:cpu"]) == 1
    assert "has no signature" in capsys.readouterr().err
    assert not hub.paths
    assert json.dumps(hub.requests) == "[]"
