"""What a configuration comes to before anything is started. More is in test_service.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.config.loader import parse_config
from edgeslm.errors import ConfigError
from edgeslm.serving.builder import build_deployment
from tests.support.nodes import write_bundle

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
