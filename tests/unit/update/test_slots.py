"""What an update replaces: names of models and tasks, and the configuration with another bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Config, parse_config
from edgeslm.errors import InvalidRequest
from edgeslm.update.slots import NOTHING, base_of, slot_of, slots, with_bundle
from edgeslm.update.store import Store
from tests.support.nodes import write_bundle
from tests.support.taught import write_head


@pytest.fixture
def config(tmp_path: Path) -> Config:
    bundle = {"bundle": str(write_bundle(tmp_path / "small"))}
    encoder = write_bundle(tmp_path / "encoder", "encoder")
    labels: dict[str, Any] = {"kind": "classify", "model": "small", "labels": ["spam", "ham"]}
    said = {
        "node": "hall",
        "broker": {"url": "mqtt://broker"},
        "models": {"small": bundle, "topic": bundle, "encoder": {"bundle": str(encoder)}},
        "tasks": {
            "topic": labels,
            "triage": {**labels, "examples": [{"input": "Win!", "output": "spam"}]},
            "taught": {"learned": str(write_head(tmp_path / "head", load_bundle(encoder).digest))},
            "staged": {
                "kind": "classify",
                "labels": ["a", "b"],
                "stages": ["small", "topic"],
                "threshold": 0.5,
            },
            "say": {"kind": "generate", "model": "small"},
        },
    }
    return parse_config(yaml.safe_dump(said))


def test_models_come_before_tasks(config: Config) -> None:
    assert slot_of("topic", config) == "topic"
    assert slot_of("learned/topic", config) == "learned/topic"
    assert slot_of("triage", config) == "learned/triage"
    assert "learned/say" not in slots(config) and {"small", "learned/taught"} <= set(slots(config))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "there is no model 'nothing' here, and no task; there are: encoder, say, small"),
        ("say", "the task say is of kind generate, which isn't learned"),
        ("staged", "has stages without learned"),
    ],
)
def test_names_without_a_slot(config: Config, name: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        slot_of(name, config)


def test_an_untrained_task_becomes_a_trained_one(config: Config, tmp_path: Path) -> None:
    assert base_of(config, "learned/triage") == NOTHING
    task = with_bundle(config, "learned/triage", tmp_path / "head").tasks["triage"]
    assert (task.learned, task.model, task.examples) == (tmp_path / "head", None, ())
    assert list(task.labels or ()) == ["spam", "ham"]
    assert with_bundle(config, "small", tmp_path / "new").models["small"].bundle == tmp_path / "new"


def test_the_record_of_a_task_is_taken_until_the_configuration_names_another(
    config: Config, tmp_path: Path
) -> None:
    store = Store(tmp_path / "state", "hall")
    with store.draft() as draft:
        new = store.add(write_head(draft / "new", load_bundle(tmp_path / "encoder").digest, rows=10))
    for task, base in (("triage", NOTHING), ("taught", load_bundle(tmp_path / "head").digest)):
        store.activate(f"learned/{task}", base, new.digest, on_trial=True)
        assert store.settled(config).tasks[task].learned == new.path
    write_head(tmp_path / "head", load_bundle(tmp_path / "encoder").digest, rows=11)
    assert store.settled(config).tasks["taught"].learned == tmp_path / "head"
    assert store.settled(config).tasks["triage"].learned == new.path
    store.roll_back("learned/triage")
    assert store.settled(config).tasks["triage"] == config.tasks["triage"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": {"triage": {"kind": "classify", "model": "small", "labels": ["a", "b"]}}}, "other labels"),
        ({"models": {"small": None}}, "which is none of the models"),
    ],
)
def test_a_changed_configuration_goes_before_an_update_that_no_longer_fits(
    config: Config, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    store = Store(tmp_path / "state", "hall")
    with store.draft() as draft:
        new = store.add(write_head(draft / "new", load_bundle(tmp_path / "encoder").digest))
    store.activate("learned/triage", NOTHING, new.digest, on_trial=False)
    models = {name: config.models[name] for name in changes.get("models", config.models)}
    tasks = {**config.tasks}
    for name, section in changes.get("tasks", {}).items():
        tasks[name] = tasks[name].model_copy(update={"labels": dict.fromkeys(section["labels"], "")})
    changed = config.model_copy(update={"models": models, "tasks": tasks})
    assert store.settled(changed).tasks["triage"] == changed.tasks["triage"]
    assert sentence in store.problems["learned/triage"]
