"""What a configuration comes to before anything is started. More is in test_service.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.config.loader import parse_config
from edgeslm.errors import ConfigError
from edgeslm.serving.builder import build_deployment
from tests.support.nodes import write_bundle, write_zero_shot

CONFIG = """
node: hall
broker: {{url: mqtt://localhost}}
state_dir: {folder}/state
models:
  small: {{bundle: {folder}/small}}
  encoder: {{bundle: {folder}/encoder}}
  gone: {{bundle: {folder}/gone}}
knowledge:
  manuals: {{path: {folder}/manuals, encoder: small}}
tasks:
  triage: {{kind: classify, model: small, labels: [normal, critical]}}
  say: {{kind: generate, model: encoder}}
  vector: {{kind: embed, model: small}}
  lost: {{kind: generate, model: gone}}
  topic: {{learned: {folder}/topic}}
  fields: {{kind: extract, model: small, adapter: {folder}/fields}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    write_bundle(tmp_path / "small")
    write_bundle(tmp_path / "encoder", "encoder")
    return CONFIG.format(folder=tmp_path)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, config: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_deployment(parse_config(config))
    assert caught.value.problems == [
        f"models.gone.bundle: {tmp_path}/gone: there is no such folder",
        f"tasks.topic.learned: {tmp_path}/topic: there is no such folder",
        f"tasks.fields.adapter: {tmp_path}/fields: there is no such folder",
        "knowledge.manuals.encoder: small embeds no texts; name a model that does",
        "tasks.say.model: encoder is of kind encoder; this task needs kind decoder",
        "tasks.vector.model: small is of kind decoder; this task needs kind encoder",
    ]


def test_a_deployment_is_built_without_an_effect(tmp_path: Path, config: str) -> None:
    kept = [
        line for line in config.splitlines() if not any(name in line for name in ("gone", "topic", "fields"))
    ]
    sound = "\n".join(kept).replace("encoder: small", "encoder: encoder")
    sound = sound.replace("generate, model: encoder", "generate, model: small")
    sound = sound.replace("embed, model: small", "embed, model: encoder")
    deployment = build_deployment(parse_config(sound))
    assert list(deployment.tasks) == ["triage", "say", "vector"]
    assert deployment.pids == {}
    assert {one.name for one in tmp_path.iterdir()} == {"small", "encoder"}


def test_an_answer_from_collections_needs_no_model_of_its_own(config: str) -> None:
    head, _, _ = config.partition("tasks:")
    sound = head.replace("encoder: small", "encoder: encoder").replace("  gone:", "  # gone:")
    tasks = "tasks:\n  manual: {kind: answer, knowledge: [manuals], escalate: node:server/manual}\n"
    deployment = build_deployment(parse_config(sound + tasks))
    assert deployment.stages_of("manual") == ("encoder", "node:server/manual")
    assert deployment.model_of("manual") == "encoder"
    assert deployment.tasks_of("encoder") == ["manual"]
    alone = build_deployment(parse_config(sound.replace(", encoder: encoder", "") + tasks))
    assert alone.model_of("manual") is None
    assert alone.stages_of("manual") == ("words", "node:server/manual")


def test_a_zero_shot_encoder_does_tasks_without_training(tmp_path: Path, config: str) -> None:
    write_zero_shot(tmp_path / "labels", {"kind": "nli", "classes": 3, "entailment": 0})
    head, _, _ = config.partition("knowledge:")
    sound = head.replace("gone:", "labels:").replace("/gone", "/labels")
    labels = "labels: [normal, critical]"
    tasks = f"""tasks:
  triage: {{kind: classify, stages: [labels, small], threshold: 0.8, {labels}}}
"""
    deployment = build_deployment(parse_config(sound + tasks))
    assert deployment.stages_of("triage") == ("labels", "small")
    assert [binding.task.needs_encoder for binding in deployment.bindings["triage"]] == [True, False]
    wrong = """tasks:
  vector: {kind: embed, model: labels}
  fields: {kind: extract, model: labels, schema: {type: object, properties: {a: {type: string}}}}
  say: {kind: generate, model: labels}
"""
    with pytest.raises(ConfigError) as caught:
        build_deployment(parse_config(sound + wrong))
    only = "a zero-shot model of kind nli labels texts, for tasks of kind classify"
    assert caught.value.problems == [f"tasks.{name}.model: {only}" for name in ("vector", "fields", "say")]


def test_fields_of_a_zero_shot_encoder_have_a_confidence_for_stages(tmp_path: Path, config: str) -> None:
    section = {"kind": "gliner", "label_token": 1, "text_token": 2, "longest": 8, "most_words": 99}
    write_zero_shot(tmp_path / "spans", section)
    head, _, _ = config.partition("knowledge:")
    sound = head.replace("gone:", "spans:").replace("/gone", "/spans")
    tasks = """tasks:
  fields:
    kind: extract
    stages: [spans, small]
    threshold: 0.7
    schema: {type: object, properties: {a: {type: string}}}
"""
    first, last = build_deployment(parse_config(sound + tasks)).bindings["fields"]
    assert (first.task.section.threshold, last.task.section.threshold) == (0.7, 0.0)
