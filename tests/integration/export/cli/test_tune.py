"""The command tune: what it learns on, and what it shows of it. Nothing is taught here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.cli import main, tune
from edgeslm_export.cli.progress import Bar
from edgeslm_export.data.rows import FieldsRow, LabelledRow
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.sources.node import NodeTask
from edgeslm_export.train.spec import Budget, Inputs
from edgeslm_export.train.tune import load_task

from edgeslm.bundle.manifest import Source
from edgeslm.errors import ExportError
from tests.support.export.tiny_tasks import write_encoder, write_rows, write_tokenizer
from tests.support.taught import change_manifest, write_base

pytestmark = pytest.mark.usefixtures("own_process")


# --- what is learned on ------------------------------------------------------------------------------

SMOLLM2 = Origin(Path("smollm2.gguf"), "LlamaForCausalLM", 1, Source(id="smollm2", revision="sha256:1"), "")
MINILM = Origin(Path("minilm"), "BertModel", 1, Source(id="minilm", revision="sha256:2"), "")


def fetched(name: str, kind: str) -> Origin:
    """What the hub gives of a name that is looked for as a model of this kind."""
    return Origin(Path(name), kind, 1, Source(id=name), "")


class FakeMaker:
    """In the place of the starter's: keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, *_: object, **__: object) -> FakeMaker:
        return self

    def make_model(self, out: Path) -> Path:
        self.asked.append("model")
        return out

    def make_encoder(self, out: Path) -> Path:
        self.asked.append("encoder")
        write_tokenizer(write_encoder(out))
        return out

    def model_origin(self) -> Origin:
        self.asked.append("its checkpoint")
        return SMOLLM2

    def encoder_origin(self) -> Origin:
        self.asked.append("the encoder's checkpoint")
        return MINILM


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMaker:
    fake = FakeMaker()
    monkeypatch.setattr(tune, "Maker", fake)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(
        "edgeslm_export.sources.hub.resolve_source", lambda name, kind, *_, **__: fetched(name, kind)
    )
    return fake


class FakeLesson:
    """In the place of ``learn``: teaches nothing and has this report."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = LABELS
        self.budgets: list[Budget] = []

    def __call__(
        self, task: object, rows: object, name: str, out: Path, on: object, budget: Budget, *_: object
    ) -> tuple[None, dict[str, Any]]:
        self.budgets.append(budget)
        return None, dict(self.report)


@pytest.fixture
def lesson(maker: FakeMaker, monkeypatch: pytest.MonkeyPatch) -> FakeLesson:
    fake = FakeLesson()
    monkeypatch.setattr("edgeslm_export.train.tune.learn", fake)
    return fake


def inputs(*methods: str, **named: Any) -> Inputs:
    options = argparse.Namespace(**{"encoder": None, "base": None, "checkpoint": None, **named})
    budget = Budget(methods, announce=lambda said: None)
    return tune.find_inputs(options, budget)


def test_without_names_both_of_the_starters_encoders_are_tried(tmp_path: Path, maker: FakeMaker) -> None:
    assert inputs() == Inputs(tmp_path / "edgeslm/starter" / "minilm-l6-int8", MINILM)
    assert maker.asked == ["encoder", "the encoder's checkpoint"]


def test_a_head_needs_no_checkpoint(tmp_path: Path, maker: FakeMaker) -> None:
    assert inputs("head") == Inputs(tmp_path / "edgeslm/starter" / "minilm-l6-int8")


def test_a_named_encoder_is_a_bundle_or_a_checkpoint(tmp_path: Path, maker: FakeMaker) -> None:
    bundle = write_encoder(tmp_path / "encoder")
    assert inputs(encoder=str(bundle)) == Inputs(bundle)
    assert inputs(encoder="owner/name") == Inputs(checkpoint=fetched("owner/name", "encoder"))
    with pytest.raises(ExportError, match="The method head needs an encoder's bundle"):
        inputs("head", encoder="owner/name")
    assert maker.asked == []


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_for_the_starters_decoder(tmp_path: Path, maker: FakeMaker, method: str) -> None:
    found = inputs(method)
    assert found == Inputs(base=tmp_path / "edgeslm/starter" / "smollm2-135m-int4", decoder=SMOLLM2)
    assert "encoder" not in maker.asked


def test_several_methods_have_what_each_of_them_needs(tmp_path: Path, maker: FakeMaker) -> None:
    starter = tmp_path / "edgeslm/starter"
    decoder = starter / "smollm2-135m-int4"
    assert inputs("lora", "qlora") == Inputs(base=decoder, decoder=SMOLLM2)
    assert inputs("head", "lora") == Inputs(starter / "minilm-l6-int8", base=decoder, decoder=SMOLLM2)


@pytest.mark.parametrize(
    ("words", "methods"),
    [
        ([], ()),
        (["--method", "auto"], ()),
        (["--method", "head"], ("head",)),
        (["--method", "lora", "--method", "qlora", "--method", "lora"], ("lora", "qlora")),
    ],
)
def test_methods_that_are_named_are_tried(words: list[str], methods: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser()
    tune.add_budget(parser, "auto")
    options = parser.parse_args(words, argparse.Namespace(debug=False))
    with Bar() as bar:
        assert tune.make_budget(options, bar).methods == methods


def test_a_wanted_recall_is_handed_on(
    tmp_path: Path, lesson: FakeLesson, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*_tune(tmp_path), "--recall", "spam=0.95", "--recall", "a=b=0.5"]) == 0
    assert dict(lesson.budgets[0].recalls) == {"spam": 0.95, "a=b": 0.5}


@pytest.mark.parametrize("wrong", ["spam", "spam=1", "spam=0", "=0.9", "spam=much"])
def test_a_recall_is_a_label_and_a_share(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["tune", "task.yaml", "rows.jsonl", "out", "--recall", wrong])
    assert "argument --recall" in capsys.readouterr().err


def test_fields_have_no_recall_to_ask_for(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--recall is for labels, and these rows have fields"):
        for_fields(tmp_path, (), recalls={"spam": 0.95})


def test_a_named_base_is_tried_beside_the_encoders(tmp_path: Path, maker: FakeMaker) -> None:
    base = tmp_path / "base"
    found = inputs(base=base, checkpoint="owner/name")
    encoder = tmp_path / "edgeslm/starter" / "minilm-l6-int8"
    assert found == Inputs(encoder, MINILM, base, fetched("owner/name", "decoder"))


def test_the_checkpoint_of_a_bundle_of_the_starters_is_known(tmp_path: Path, maker: FakeMaker) -> None:
    write_base(tmp_path / "base")
    change_manifest(tmp_path / "base", source={"id": "smollm2", "revision": SMOLLM2.source.revision})
    assert inputs("lora", base=tmp_path / "base") == Inputs(base=tmp_path / "base", decoder=SMOLLM2)


def test_the_checkpoint_of_another_bundle_has_to_be_named(tmp_path: Path, maker: FakeMaker) -> None:
    write_base(tmp_path / "base")
    with pytest.raises(ExportError, match="name them with --base and --checkpoint"):
        inputs("lora", base=tmp_path / "base")


@pytest.mark.parametrize("methods", [(), ("lora",)])
def test_a_checkpoint_without_its_base_is_refused(maker: FakeMaker, methods: tuple[str, ...]) -> None:
    """What is named and not used would be silently another thing than was meant."""
    with pytest.raises(ExportError, match="name them with --base and --checkpoint"):
        inputs(*methods, checkpoint="owner/name")


# --- fields ------------------------------------------------------------------------------------------

ROWS = [FieldsRow(1, "M3 is hot", {"machine": "M3"}), FieldsRow(2, "M4 is hot", {"machine": "M4"})]
LISTS = "schema: {type: object, properties: {machines: {type: array, items: {type: string}}}}"


def for_fields(folder: Path, methods: tuple[str, ...], text: str = "", **how: Any) -> Budget:
    (folder / "task.yaml").write_text(f"name: machine\nkind: extract\n{text}")
    task = load_task(folder / "task.yaml")
    return tune.for_fields(task, ROWS, Budget(methods, **{"announce": lambda said: None, **how}))


@pytest.mark.parametrize("methods", [(), ("encoder",), ("lora", "qlora")])
def test_fields_that_can_be_pointed_at_are_learned_as_was_wanted(
    tmp_path: Path, methods: tuple[str, ...]
) -> None:
    said: list[str] = []
    assert for_fields(tmp_path, methods, announce=said.append, seconds=60.0).methods == methods
    assert said == []


def test_a_head_finds_no_fields(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="The method head can't find fields; take encoder, lora or qlora"):
        for_fields(tmp_path, ("head",))


def test_what_nobody_can_point_at_is_written_by_a_decoder_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    budget = for_fields(tmp_path, (), LISTS, announce=said.append, seconds=60.0)
    assert (budget.methods, budget.seconds) == (("lora",), 60.0)
    assert said == [
        "The field 'machines' is not a single text, number or truth value, so a decoder learns to write the "
        "fields."
    ]


@pytest.mark.parametrize("method", ["encoder", "lora", "qlora"])
def test_a_named_method_is_not_changed_by_the_schema(tmp_path: Path, method: str) -> None:
    """An encoder refuses it with a sentence of its own."""
    assert for_fields(tmp_path, (method,), LISTS).methods == (method,)


def test_a_head_is_refused_fields_before_anything_is_fetched(
    tmp_path: Path, maker: FakeMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"M{number} is hot", "fields": {"machine": f"M{number}"}} for number in range(12)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "task.yaml").write_text("name: machine")
    command = ["tune", str(tmp_path / "task.yaml"), str(data), str(tmp_path / "out"), "--method", "head"]
    assert main.main(command) == 1
    assert "The method head can't find fields" in capsys.readouterr().err
    assert maker.asked == []


@pytest.mark.parametrize(
    ("text", "asked"),
    [("", ["encoder", "the encoder's checkpoint"]), (LISTS, ["its checkpoint", "model"])],
    ids=["pointed at", "written"],
)
def test_fields_are_learned_on_what_their_way_needs(
    tmp_path: Path, maker: FakeMaker, lesson: FakeLesson, text: str, asked: list[str]
) -> None:
    fields: dict[str, Any] = {"machines": ["M1"]} if text else {"machine": "M1"}
    data = write_rows(
        tmp_path / "rows.jsonl", [{"text": f"M1 is hot {row}", "fields": fields} for row in range(12)]
    )
    (tmp_path / "task.yaml").write_text(f"name: machine\nkind: extract\n{text}")
    lesson.report = FIELDS
    assert main.main(["tune", str(tmp_path / "task.yaml"), str(data), str(tmp_path / "out")]) == 0
    assert maker.asked == asked


# --- what is shown -----------------------------------------------------------------------------------


def _tune(folder: Path, *on: str, long: int = 0) -> list[str]:
    """Arguments of the command. :param long: words that the first text has more."""
    rows = [{"text": f"{label} {number}", "label": label} for number in range(8) for label in ("ham", "spam")]
    rows[0]["text"] += " x" * long
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.yaml").write_text("name: topic")
    files = [str(folder / name) for name in ("task.yaml", "rows.jsonl", "out")]
    return ["tune", *files, *(on or ("--method", "lora"))]


LABELS: dict[str, Any] = {
    "method": "lora",
    "learned_from": 16,
    "majority": 0.5,
    "coverage": {"0.05": 0.913, "0.02": None},
    "labels": {"ham": {"rows": 8, "precision": 0.9, "recall": None}},
    "methods": {
        name: {"accuracy": accuracy, "interval": [0.8, 0.95], "held_out": 16, "calibration_error": 0.021}
        for name, accuracy in (("head", 0.875), ("lora", 0.938))
    },
    "measured": {
        name: {"texts_per_s": 120.4, "bytes": 23_400_000, "peak_rss": memory}
        for name, memory in (("head", None), ("lora", 2_140_000_000))
    },
    "least_error": 0.0312,
}
FIELDS: dict[str, Any] = {
    "method": "qlora",
    "learned_from": 16,
    "rows": 4,
    "exact": 0.75,
    "exact_interval": [0.5, 1.0],
    "fields": {
        "machine": {
            "rows": 3,
            "accuracy": 0.667,
            "interval": [0.3, 0.9],
            "precision": 0.5,
            "recall": None,
            "f1": 0.4,
        }
    },
    "coverage": {"0.05": 0.5},
    "methods": {
        "encoder": {"exact": 0.7, "interval": [0.5, 1.0], "held_out": 4, "calibration_error": 0.04},
        "qlora": {"exact": 0.75, "interval": [0.5, 1.0], "held_out": 4, "calibration_error": None},
    },
    "measured": {
        "encoder": {"texts_per_s": 120.4, "bytes": 23_400_000, "peak_rss": 910_000_000},
        "qlora": {"texts_per_s": 2.25, "bytes": 113_000_000, "peak_rss": 3_000_000_000},
    },
}


def test_tune_shows_what_each_way_is_worth(
    tmp_path: Path, lesson: FakeLesson, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(_tune(tmp_path)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{tmp_path / 'out'}: learned topic from 16 rows: an adapter for the decoder"
    lines = [line.split() for line in shown]
    assert ["head", "0.875", "0.800", "to", "0.950", "16", "0.021", "120", "23.4", "MB", "-"] in lines
    assert ["lora", "0.938", "0.800", "to", "0.950", "16", "0.021", "120", "23.4", "MB", "2.1", "GB"] in lines
    assert "max_error: 0.05              answers 91.3%" in shown
    assert (
        "max_error: 0.02              not reachable (lowest guaranteed: 0.031); label more: this takes 80 "
        "confident answers without an error" in shown
    )


def test_tune_shows_how_often_each_field_is_right(
    tmp_path: Path, lesson: FakeLesson, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson.report = FIELDS
    assert main.main(_tune(tmp_path)) == 0
    shown = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in shown]
    assert [
        "encoder",
        "0.700",
        "0.500",
        "to",
        "1.000",
        "4",
        "0.040",
        "120",
        "23.4",
        "MB",
        "0.9",
        "GB",
    ] in lines
    assert ["qlora", "0.750", "0.500", "to", "1.000", "4", "-", "2.2", "113.0", "MB", "3.0", "GB"] in lines
    assert "max_error: 0.05              answers 50.0%" in shown
    assert ["machine", "3", "0.667", "0.300", "to", "0.900", "0.500", "-", "0.400"] in lines


@pytest.mark.parametrize(("label", "is_tested"), [("ham", True), ("neither", False)])
def test_tune_shows_the_accuracy_on_a_test_set(
    tmp_path: Path,
    lesson: FakeLesson,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    label: str,
    is_tested: bool,
) -> None:
    def evaluate(bundle: object, base: object, rows: list[LabelledRow], **_: object) -> dict[str, Any]:
        if rows[0].label == "neither":
            raise ExportError("Row 1 has the label 'neither', which the task doesn't know.")
        return {"accuracy": 0.75, "rows": len(rows)}

    monkeypatch.setattr(tune, "load_bundle", lambda folder: folder)
    monkeypatch.setattr("edgeslm_export.evaluate.report_card.evaluate_learned", evaluate)
    test = write_rows(tmp_path / "test.jsonl", [{"text": f"new {row}", "label": label} for row in range(4)])
    assert main.main([*_tune(tmp_path), "--test", str(test)]) == 0
    said = capsys.readouterr()
    assert ("test set                     0.750 of 4 rows" in said.out.splitlines()) == is_tested
    assert ("Not tested on" in said.err) != is_tested


def test_tune_gives_the_whole_report_as_json(
    tmp_path: Path, lesson: FakeLesson, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*_tune(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {key: shown[key] for key in LABELS} == LABELS
    assert shown["bundle"] == str(tmp_path / "out")


@pytest.mark.parametrize(("overflow", "is_said"), [("error", True), ("head", False)])
def test_rows_that_a_device_would_refuse_are_named(
    tmp_path: Path,
    lesson: FakeLesson,
    fake_encoder: Path,
    capsys: pytest.CaptureFixture[str],
    overflow: str,
    is_said: bool,
) -> None:
    write_tokenizer(fake_encoder)
    command = _tune(tmp_path, "--method", "head", "--encoder", str(fake_encoder), long=300)
    (tmp_path / "task.yaml").write_text(f"name: topic\noverflow: {overflow}")
    assert main.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert any(finding["kind"] == "long" and finding["rows"] == [1] for finding in found) == is_said


def test_wrong_labels_that_nobody_can_look_for_are_not_silently_kept(
    tmp_path: Path, lesson: FakeLesson, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*_tune(tmp_path), "--clean", "labels"]) == 1
    assert "Wrong labels are found by a head on an encoder's bundle" in capsys.readouterr().err


# --- a node's task -----------------------------------------------------------------------------------


class FakeSource:
    """In the place of a node: the rows of ``_tune``, and what was pushed."""

    is_saved = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.takes_updates = True
        self.pushed: list[tuple[str, Path]] = []
        self.named: list[Any] = []

    def of(self, *named: Any) -> FakeSource:
        self.named.append(named[:2])
        return self

    def fetch(self, task: str | None, folder: Path) -> NodeTask:
        assert folder.is_dir()
        self.named.append(task)
        files = self._folder / "task.yaml", self._folder / "rows.jsonl"
        return NodeTask("topic", *files, {}, self.takes_updates)

    def push(self, task: str, bundle: Path) -> str:
        self.pushed.append((task, bundle))
        return "topic is on trial"


@pytest.fixture
def source(tmp_path: Path, lesson: FakeLesson, monkeypatch: pytest.MonkeyPatch) -> FakeSource:
    fake = FakeSource(tmp_path)
    monkeypatch.setattr("edgeslm_export.sources.node.NodeSource", fake)
    _tune(tmp_path)
    return fake


def _from(folder: Path, *more: str) -> list[str]:
    return ["tune", "--from", "hall", str(folder / "out"), "--task", "topic", "--method", "lora", *more]


def test_a_nodes_task_is_trained_and_brought_back(
    source: FakeSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(_from(tmp_path, "--broker", "mqtt://broker")) == 0
    assert source.named == [("hall", "mqtt://broker"), "topic"] and source.pushed == []
    assert main.main(_from(tmp_path, "--push")) == 0
    assert source.pushed == [("topic", tmp_path / "out")]
    assert capsys.readouterr().out.endswith("topic is on trial\n")
    assert main.main(_from(tmp_path, "--push", "--json")) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["method"] == "lora" and "topic is on trial" in said.err


def test_a_node_that_takes_no_bundles_is_told_before_the_training(
    source: FakeSource, lesson: FakeLesson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.takes_updates = False
    assert main.main(_from(tmp_path, "--push")) == 1
    assert "updates: {sources: [mqtt]}" in capsys.readouterr().err and not lesson.budgets
    source.is_saved = True
    assert main.main(_from(tmp_path, "--push")) == 1
    assert "A saved list has no node" in capsys.readouterr().err


def test_a_head_needs_the_nodes_encoder(
    source: FakeSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main.main([*_from(tmp_path), "--method", "head"])  # fails later, since the encoder is a fake
    assert "The node's models don't include the encoder minilm-l6-int8" in capsys.readouterr().err


def test_options_for_a_node_need_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*_tune(tmp_path), "--push"]) == 1
    assert "name the node with --from" in capsys.readouterr().err


def test_the_texts_of_suspicious_rows_are_told(
    source: FakeSource, lesson: FakeLesson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _from(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write("\n" + json.dumps({"text": "HAM 0", "label": "ham"}))
    assert main.main(command) == 0
    told = "1 row repeats an earlier one: row 17.\n  17 (ham): HAM 0\n  It stays;"
    assert told in capsys.readouterr().err


def test_a_second_time_the_error_names_the_option(
    source: FakeSource, lesson: FakeLesson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert main.main(_from(tmp_path)) == 1
    assert "exists already; name another folder or remove it" in capsys.readouterr().err
    (tmp_path / "out/manifest.json").write_text("{}")
    assert main.main(_from(tmp_path)) == 1
    assert "exists already; add --replace, name another folder or remove it" in capsys.readouterr().err
    assert main.main(_from(tmp_path, "--replace")) == 0


def test_corrections_that_nobody_accepted_are_left_out_and_told(
    lesson: FakeLesson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _tune(tmp_path)
    waiting = {"text": "evil", "label": "ham", "at": "2026-03-04T05:06:07+00:00", "by": "desk-3"}
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write("\n" + json.dumps(waiting) + "\n" + json.dumps({**waiting, "accepted": False}))
    assert main.main(command) == 0
    assert "1 correction came over MQTT and is left out" in capsys.readouterr().err
