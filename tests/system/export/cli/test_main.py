"""The command line: help with an example, one sentence on failure, JSON where asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.cli import main
from edgeslm_export.cli.screen import print_table

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError
from tests.support.export.children import FakeChildren
from tests.support.export.questions import questions
from tests.support.export.tiny_tasks import write_rows
from tests.support.nodes import write_bundle
from tests.support.taught import write_head

pytestmark = pytest.mark.usefixtures("own_process")


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: {main.COMMANDS[command].EXAMPLE}" in capsys.readouterr().out


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_example_parses(command: str) -> None:
    example, _, _ = main.COMMANDS[command].EXAMPLE.partition(" > ")
    options = main._parser().parse_args(example.split()[1:])
    assert options.json is False
    assert options.debug is False


def test_a_failure_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["model", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    wanted = "name a checkpoint folder, a .gguf file or a hub id"
    assert streams.err == f"edgeslm-export: {tmp_path}/none doesn't exist; {wanted}.\n"


def test_an_existing_out_is_told_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("model", "encoder"):
        assert main.main([command, "owner/name", str(tmp_path)]) == 1
        assert "exists already" in capsys.readouterr().err
    assert main.main(["tune", "none.yaml", "none.jsonl", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ExportError("It is so."), "It is so."),
        (OSError(28, "No space left on device", "/x"), "/x: No space left on device."),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "the package torch is missing; pip install",
        ),
        (ZeroDivisionError("oops"), "an error that was not foreseen (ZeroDivisionError: oops)"),
    ],
)
def test_every_error_becomes_a_sentence(
    error: Exception,
    sentence: str,
    children: FakeChildren,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> dict[str, Any]:
        raise error

    children.steps["evaluate.report_card"] = fail
    command = ["evaluate", str(write_bundle(tmp_path / "bundle"))]
    assert main.main(command) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
    assert main.main([*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_evaluate_prints_a_table_and_a_json_line(
    children: FakeChildren, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {
        "rows": 500,
        "accuracy": 0.964,
        "interval": [0.9438, 0.9771],
        "labels": {"ham": {"rows": 449, "precision": 0.9654, "recall": None}},
    }
    children.steps["evaluate.report_card"] = lambda task, on_progress: figures
    encoder = write_bundle(tmp_path / "encoder", "encoder")
    bundle = load_bundle(write_head(tmp_path / "bundle", load_bundle(encoder).digest))
    about = {"name": "fake-head", "kind": "head", "digest": bundle.digest, "bytes": bundle.weight_bytes}
    shown = {"bundle": str(bundle.path), **about, **figures, "learned_from": 9}
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "Win!", "label": "spam"}])
    arguments = ["evaluate", str(bundle.path), str(data), "--encoder", str(encoder)]
    assert main.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "accuracy             0.964" in lines
    assert "95 % interval        0.944 to 0.977" in lines
    assert json.loads(lines[-1]) == shown
    assert main.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown


@pytest.mark.parametrize("given", ["0", "1", "-0.1", "often", "nan"])
def test_a_wanted_error_is_a_share(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["evaluate", "bundle", "rows.jsonl", "--max-error", given])
    assert f"{given} is not a number between 0 and 1" in capsys.readouterr().err


def test_the_likeness_is_a_row_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        "text": "WikiText-2",
        "tokens": 4096,
        "kl_mean": 0.08,
        "kl_p999": 2.1,
        "same_top1": 0.857,
        "perplexity_ratio": 1.0359,
        "perplexity_ratio_se": 0.003,
    }
    print_table({"name": "tiny", "stated": {"text": "a book", "kl_mean": 0.1}, "fidelity": [figures]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["WikiText-2", "4,096", "0.0800", "over", "2.10", "85.7%", "1.0359", "±", "0.0030"] in lines
    assert ["a", "book,", "as", "its", "report.json", "says", "-", "0.1000", "-", "-", "-"] in lines


def test_a_text_needs_a_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["evaluate", "bundle", "--text", "manual.txt"]) == 1
    assert "name it with --reference SRC" in capsys.readouterr().err


def test_the_default_recipe_is_one_of_the_table() -> None:
    from edgeslm_export.quantize.recipe import DEFAULT_RECIPE, RECIPES, find_recipe

    assert find_recipe(DEFAULT_RECIPE) is RECIPES[DEFAULT_RECIPE]
    with pytest.raises(ExportError, match="There is no recipe 'int2'; choose one of int4, int4-mixed"):
        find_recipe("int2")


@pytest.mark.parametrize("command", ["encoder", "reader"])
def test_minutes_bound_a_teaching(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([command, "none", str(tmp_path / "out"), "--minutes", "5"]) == 1
    assert "--minutes limits the training, which needs --questions" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encoder", "reader"])
def test_a_gpu_is_for_a_teaching(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([command, "none", str(tmp_path / "out"), "--device", "cuda"]) == 1
    assert "--device cuda is for the training, which needs --questions" in capsys.readouterr().err


def test_a_gpu_that_isnt_there_fails_before_a_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["model", "owner/name", str(tmp_path / "out"), "--device", "cuda"]) == 1
    assert "torch finds no GPU here" in capsys.readouterr().err


@pytest.mark.export
def test_an_encoder_is_taught_by_a_file_of_questions(
    encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"text": row.text, "question": row.question, "answer": row.answer and row.text[slice(*row.answer)]}
        | {"source": row.source}
        for row in questions(60)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    assert (
        main.main(["encoder", str(encoders / "bge"), str(out), "--questions", str(tmp_path / "q.jsonl")]) == 0
    )
    shown = capsys.readouterr().out
    assert "found before" in shown and "found now" in shown
    assert load_bundle(out).manifest.embeds
