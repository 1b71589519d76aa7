"""A task and its labels from a node, its configuration or a saved list; ``edgeslm`` itself is a fake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.sources import node
from edgeslm_export.sources.node import NodeSource

from edgeslm.errors import ExportError

TOLD: dict[str, Any] = {
    "task": {"name": "triage", "kind": "classify", "labels": {"a": "", "b": ""}},
    "models": {"minilm": {"kind": "encoder", "digest": "sha256:1"}, "small": {"kind": "decoder"}},
    "takes_updates": True,
}
ROWS = [{"text": "one", "label": "a"}, {"text": "two\u2028", "label": "b"}]
LIST = "\n".join(json.dumps(one, ensure_ascii=False) for one in [TOLD, *ROWS]) + "\n"


class FakeEdgeslm:
    """What the command is asked, and what it prints."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.asked.append(list(arguments))
        if arguments[0] == "feedback":
            return LIST
        return '{"digest": "sha256:2"}' if "stage" in arguments else "triage is on trial\n"


@pytest.fixture
def edgeslm(monkeypatch: pytest.MonkeyPatch) -> FakeEdgeslm:
    fake = FakeEdgeslm()
    monkeypatch.setattr(node, "_edgeslm", fake)
    monkeypatch.delenv("EDGESLM_BROKER", raising=False)
    return fake


def source(named: object, broker: str | None = None, **login: Any) -> NodeSource:
    return NodeSource.of(str(named), broker, login)


def test_a_saved_list_has_the_task_and_its_rows(edgeslm: FakeEdgeslm, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text(LIST)
    (tmp_path / "work").mkdir()
    found = source(tmp_path / "labels.jsonl").fetch(None, tmp_path / "work")
    assert (found.name, found.encoders, found.takes_updates) == ("triage", ["sha256:1"], True)
    assert json.loads(found.task.read_text()) == TOLD["task"]
    assert [json.loads(line) for line in found.rows.read_text().split("\n") if line] == ROWS
    assert edgeslm.asked == []
    with pytest.raises(ExportError, match="has the task triage, not spam"):
        source(tmp_path / "labels.jsonl").fetch("spam", tmp_path / "work")


def test_a_configuration_is_asked_on_this_machine(edgeslm: FakeEdgeslm, tmp_path: Path) -> None:
    file = tmp_path / "edgeslm.yaml"
    file.touch()
    for named in (file, tmp_path):
        assert source(named).fetch("triage", tmp_path).name == "triage"
    assert edgeslm.asked == 2 * [["feedback", "triage", "--json", "--config", str(file)]]
    assert source(file).push("triage", tmp_path / "out") == "triage is on trial"
    assert edgeslm.asked[2:] == [
        ["models", "stage", str(file), str(tmp_path / "out"), "--json"],
        ["models", "activate", str(file), "triage", "sha256:2"],
    ]


def test_a_node_is_asked_over_mqtt(
    edgeslm: FakeEdgeslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--node", "hall", "--broker", "mqtts://broker:8883"]
    for named, broker in (("hall", "mqtts://broker:8883"), ("mqtts://broker:8883/hall", None)):
        source(named, broker, username="me", ca_file=Path("ca.pem"), prefix=None).fetch("triage", tmp_path)
        login = ["--username", "me", "--ca-file", "ca.pem"]
        assert edgeslm.asked.pop() == ["feedback", "triage", "--json", *where, *login]
    monkeypatch.setenv("EDGESLM_BROKER", "mqtts://broker:8883")
    source("hall").push("triage", tmp_path)
    assert edgeslm.asked == [["models", "push", "triage", str(tmp_path), *where]]


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("hall", "name its broker with --broker"),
        ("no/file.yaml", "no such file, and not a node's name"),
        ("mqtt://broker/", "no such file"),
        ("mqtt://broker/a/b", "no such file"),
    ],
)
def test_what_is_no_source_is_told(edgeslm: FakeEdgeslm, named: str, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        source(named)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is neither a node's configuration"),
        ('{"text": "one", "label": "a"}\n', "is neither a node's configuration"),
        ("[" * 100_000, "is neither a node's configuration"),
        (LIST.partition("\n")[0], "has no labels of the task triage"),
        (LIST.replace('"triage"', '"../x"'), "is no task's name"),
    ],
)
def test_a_bad_list_is_told(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "list").write_text(content)
    with pytest.raises(ExportError, match=sentence):
        source(tmp_path / "list").fetch(None, tmp_path)


def test_a_folder_without_a_configuration_is_told(edgeslm: FakeEdgeslm, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no file edgeslm\.yaml"):
        source(tmp_path)
    (tmp_path / "node.yaml").touch()
    assert source(tmp_path).config == tmp_path / "node.yaml"
    with pytest.raises(ExportError, match="Name the task with --task"):
        source(tmp_path).fetch(None, tmp_path)


def test_the_commands_last_sentence_is_the_error(tmp_path: Path) -> None:
    (tmp_path / "edgeslm.yaml").write_text("node: 3")
    with pytest.raises(ExportError, match=r"edgeslm\.yaml"):
        source(tmp_path).fetch("triage", tmp_path)
