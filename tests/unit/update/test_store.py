"""Bundles that were brought onto a device, and the record of which a model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Config, parse_config
from edgeslm.errors import BundleError
from edgeslm.update.store import Store
from tests.support.nodes import write_bundle


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, "hall")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure(write_bundle(tmp_path / "first"))


def configure(bundle: Path) -> Config:
    said: dict[str, Any] = {
        "node": "hall",
        "broker": {"url": "mqtt://broker"},
        "models": {"small": {"bundle": str(bundle)}},
        "tasks": {"say": {"kind": "generate", "model": "small"}},
    }
    return parse_config(yaml.safe_dump(said))


def add(store: Store, weights: bytes) -> str:
    with store.draft() as draft:
        return store.add(write_bundle(draft / "new", weights=weights)).digest


def base_of(config: Config) -> str:
    return load_bundle(config.models["small"].bundle).digest


def served(store: Store, config: Config) -> str:
    return load_bundle(store.settled(config).models["small"].bundle).digest


def test_a_model_is_what_it_was_switched_to_and_back(store: Store, config: Config) -> None:
    base, second, third = base_of(config), add(store, b"second"), add(store, b"third")
    assert served(store, config) == base
    store.activate("small", base, second, on_trial=False)
    store.activate("small", base, third, on_trial=True)
    assert served(store, config) == third
    assert store.on_trial == ["small"]
    assert store.roll_back("small") == second
    assert (served(store, config), store.on_trial) == (second, [])
    with pytest.raises(BundleError, match="nothing to go back to"):
        store.roll_back("small")
    store.activate("small", base, third, on_trial=False)
    assert store.roll_back("small") == second


def test_back_to_the_configuration(store: Store, config: Config) -> None:
    base = base_of(config)
    store.activate("small", base, add(store, b"second"), on_trial=True)
    assert store.roll_back("small") == base
    assert store.entry("small") is None


def test_a_bundle_that_the_configuration_names_anew_goes_first(
    store: Store, config: Config, tmp_path: Path
) -> None:
    store.activate("small", base_of(config), add(store, b"second"), on_trial=False)
    changed = configure(write_bundle(tmp_path / "anew", weights=b"named anew"))
    assert served(store, changed) == base_of(changed)


def test_the_configured_bundle_may_be_gone(store: Store, config: Config, tmp_path: Path) -> None:
    second = add(store, b"second")
    store.activate("small", base_of(config), second, on_trial=False)
    (tmp_path / "first" / "manifest.json").unlink()
    assert served(store, config) == second


def test_what_is_damaged_is_passed_over_and_told(store: Store, config: Config) -> None:
    base, second, third = base_of(config), add(store, b"second"), add(store, b"third")
    store.activate("small", base, second, on_trial=False)
    store.activate("small", base, third, on_trial=False)
    (store.find(third).path / "model.onnx").unlink()
    assert served(store, config) == second
    assert "is not the bundle" in store.problems["small"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"models": {"small": {}}}', "\0"])
def test_a_damaged_record_is_none(store: Store, config: Config, text: str) -> None:
    store.activate("small", base_of(config), add(store, b"second"), on_trial=False)
    (store.folder / "active-hall.json").write_text(text)
    assert served(store, config) == base_of(config)


def test_a_record_that_others_can_write_is_not_believed(store: Store, config: Config) -> None:
    store.activate("small", base_of(config), add(store, b"second"), on_trial=False)
    (store.folder / "active-hall.json").chmod(0o666)
    assert served(store, config) == base_of(config)


def test_starts_on_trial_are_counted(store: Store, config: Config) -> None:
    store.activate("small", base_of(config), add(store, b"second"), on_trial=True)
    assert [store.begin_start() for _ in range(3)] == [[], [], ["small"]]
    assert store.begin_start() == []


def test_a_bundle_is_found_by_the_beginning_of_its_digest(store: Store) -> None:
    digest = add(store, b"second")
    assert store.find(digest).digest == store.find(digest[7:11]).digest == digest
    for wrong in ("", "12", "sha256:", "ffffffff"):
        with pytest.raises(BundleError):
            store.find(wrong)


def test_only_what_nobody_uses_is_removed(store: Store, config: Config) -> None:
    second, third = add(store, b"second"), add(store, b"third")
    store.activate("small", base_of(config), second, on_trial=False)
    with pytest.raises(BundleError, match="in use by model small"):
        store.remove(second, config)
    assert store.remove(third, config).digest == third
    assert [one.bundle.digest for one in store.bundles()] == [second]
    assert list(store.folder.glob(".*")) == []


def test_a_damaged_copy_in_the_store_is_replaced(store: Store) -> None:
    digest = add(store, b"second")
    (store.find(digest).path / "model.onnx").write_bytes(b"sEcond")
    assert add(store, b"second") == digest
    assert (store.find(digest).path / "model.onnx").read_bytes() == b"second"


def test_what_a_killed_run_left_is_cleared(store: Store) -> None:
    (store.folder / ".draft-1234").mkdir(parents=True)
    (store.folder / ".draft-1234" / "half").write_text("half")
    store.clear()
    assert list(store.folder.iterdir()) == []


def test_nodes_of_one_state_folder_have_records_of_their_own(
    store: Store, config: Config, tmp_path: Path
) -> None:
    store.activate("small", base_of(config), add(store, b"second"), on_trial=False)
    other = Store(tmp_path, "yard")
    assert served(other, config) == base_of(config)
    with pytest.raises(BundleError, match="in use by model small"):
        other.remove(other.bundles()[0].bundle.digest, config)
    assert len(other.bundles()) == 1
    assert json.loads((store.folder / "active-hall.json").read_text())["models"].keys() == {"small"}


def test_what_the_configuration_names_or_others_put_there_is_not_removed(
    store: Store, tmp_path: Path
) -> None:
    digest = add(store, b"second")
    named = configure(store.find(digest).path)
    with pytest.raises(BundleError, match="named in the configuration: model small"):
        store.remove(digest, named)
    write_bundle(store.folder / "by-hand", weights=b"put there")
    assert [one.bundle.digest for one in store.bundles()] == [digest]


def test_what_another_is_bringing_is_not_cleared(store: Store, tmp_path: Path) -> None:
    with store.draft() as draft:
        Store(tmp_path, "yard").clear()
        assert draft.is_dir()


def test_a_start_that_ends_in_order_counts_for_nothing(store: Store, config: Config) -> None:
    store.activate("small", base_of(config), add(store, b"second"), on_trial=True)
    for _ in range(5):
        assert store.begin_start() == []
        store.end_start()


def test_a_task_goes_back_head_by_head_to_what_the_configuration_names(store: Store) -> None:
    for digest in ("sha256:first", "sha256:second"):
        store.activate("learned/topic", "none", digest, on_trial=False)
    assert store.roll_back("learned/topic") == "sha256:first"
    assert store.roll_back("learned/topic") == "none"
    assert store.entry("learned/topic") is None
    with pytest.raises(BundleError, match="nothing to go back to"):
        store.roll_back("learned/topic")
