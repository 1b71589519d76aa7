"""``edgeslm-export plan``: predicted from a config alone, for a folder, a GGUF file and a hub id."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.cli.main import main
from edgeslm_export.models.plan import make_plan, plan_json, plan_lines, read_source
from edgeslm_export.quantize.recipe import RECIPES
from edgeslm_export.sources import hub
from edgeslm_export.sources.checkpoint import examine_folder
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.model_shape import read_shape
from edgeslm.errors import ExportError
from edgeslm.hardware.board_profiles import board_names, load_board
from tests.support.export.tiny_models import FAMILIES
from tests.support.published_configs import PUBLISHED

PI5 = load_board("pi5-8gb")


def write_config(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**PUBLISHED[name][0], **changes}))
    return folder


@pytest.mark.export
@pytest.mark.parametrize("name", FAMILIES)
def test_the_weights_of_a_checkpoint_are_counted(name: str, families: Path) -> None:
    assert read_source(str(families / name)).weights == examine_folder(families / name, "decoder").weights


@pytest.mark.export
def test_a_gguf_is_planned_from_its_header(tiny: Path) -> None:
    shape, like = read_source(str(tiny / "plain.gguf")), read_source(str(tiny / "plain"))
    assert shape == replace(like, vocab=like.vocab + 1)


@pytest.mark.parametrize("board", board_names())
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_model_on_every_board(name: str, board: str) -> None:
    plan = make_plan(name, read_shape(PUBLISHED[name][0]), load_board(board), ())
    assert [row.recipe for row in plan.rows] == list(RECIPES)
    data = json.loads(json.dumps(plan_json(plan)))
    assert data["weights"] == PUBLISHED[name][1]
    lines = plan_lines(plan)
    assert all(len(line) < 160 for line in lines[1:])
    assert lines[-1] == plan.advice
    assert plan.advice.endswith(".")


def test_what_fits_and_what_does_not() -> None:
    phi, small = (read_shape(PUBLISHED[name][0]) for name in ("Phi-3-mini-4k", "Qwen2.5-0.5B"))
    assert [row.fits for row in make_plan("q", small, PI5, ()).rows] == [True] * len(RECIPES)
    tight = make_plan("p", phi, load_board("pi4-4gb"), ["int4"], 4096)
    assert not tight.rows[0].fits
    assert "Doesn't fit" in tight.advice
    assert "--context" in tight.advice
    seven = make_plan("m", read_shape(PUBLISHED["Mistral-7B-v0.3"][0]), load_board("pi5-4gb"), ["int8"])
    assert "take a smaller model or a board with more memory" in seven.advice


def test_the_default_recipe_is_advised_where_it_fits_and_is_fast_enough() -> None:
    """int4, which loses most, was advised wherever int8 was too slow."""
    phi, small = (read_shape(PUBLISHED[name][0]) for name in ("Phi-3-mini-4k", "Qwen2.5-0.5B"))
    assert make_plan("p", phi, PI5, ()).advice.startswith("Take auto: ")
    both = make_plan("q", small, PI5, ()).advice
    assert both.startswith("Take auto: ")
    assert "; int8 where answers matter most: it fits too, at " in both
    assert make_plan("q", small, PI5, ["int4"]).advice.startswith("Take int4: ")


def test_a_context_that_the_advice_names_does_fit() -> None:
    phi, board = read_shape(PUBLISHED["Phi-3-mini-4k"][0]), load_board("pi4-4gb")
    advice = make_plan("p", phi, board, ["int4"], 4096).advice
    left = int(advice.partition("--context ")[2].split()[0])
    assert make_plan("p", phi, board, ["int4"], left).rows[0].fits


def test_a_longer_context_than_the_model_has() -> None:
    with pytest.raises(ExportError, match="context of 4096 tokens and 5000 were asked for"):
        make_plan("p", read_shape(PUBLISHED["Phi-3-mini-4k"][0]), PI5, (), 5000)


def test_a_short_model_is_planned_with_what_it_has() -> None:
    shape = replace(read_shape(PUBLISHED["Phi-3-mini-4k"][0]), context_length=512)
    assert make_plan("p", shape, PI5, ()).context == 512


def test_an_unknown_recipe() -> None:
    with pytest.raises(ExportError, match="no recipe 'int3'"):
        make_plan("p", read_shape(PUBLISHED["Phi-3-mini-4k"][0]), PI5, ["int3"])


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_config(tmp_path / "qwen", "Qwen2.5-0.5B")
    assert main(["plan", str(source), "--board", "pi5-8gb", "--context", "512"]) == 0
    out = capsys.readouterr().out
    assert "Qwen2ForCausalLM, 494 million weights, 6 KiB of cache a token" in out
    assert "with 512 tokens in the cache" in out
    assert "\nint4 " in out and "\nint8 " in out


def test_the_command_prints_one_json_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_config(tmp_path / "qwen", "Qwen2.5-0.5B") / "config.json"
    assert main(["plan", str(source), "--board", "n100", "--recipe", "int4", "--json"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    data = json.loads(line)
    assert data["board"]["name"] == "n100"
    assert [row["recipe"] for row in data["recipes"]] == ["int4"]
    assert data["recipes"][0]["weight_bytes"] == 271_091_712


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--board", "pi6"], "There is no board 'pi6'; choose one of generic-x86"),
        (["--board", "n100", "--context", "40000"], "context of 32768 tokens and 40000 were asked for"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(write_config(tmp_path / "q", "Qwen2.5-0.5B")), *arguments]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "has the architecture MambaForCausalLM"),
        ({"hidden_size": None}, "says nothing of hidden_size"),
        ({"quantization_config": {"quant_method": "awq"}}, "is already quantized"),
    ],
)
def test_a_config_that_can_not_be_planned(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_config(tmp_path / "q", "Qwen2.5-0.5B", **changes)
    assert main(["plan", str(source), "--board", "n100"]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("source", ["./missing", "missing.gguf", "a b c"])
def test_a_source_that_is_not_there(source: str) -> None:
    with pytest.raises(ExportError, match="doesn't exist; name a checkpoint folder"):
        read_source(source)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no config\.json"):
        read_source(str(tmp_path))


def test_of_a_hub_id_only_the_config_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    file = write_config(tmp_path / "q", "Qwen2.5-0.5B") / "config.json"
    fetched: list[tuple[str | None, ...]] = []

    class FakeFile:
        rfilename = "config.json"

    class FakeInfo:
        siblings: tuple[FakeFile, ...] = (FakeFile(),)
        sha = "abc"

    class FakeApi:
        def model_info(self, repo: str, revision: str | None) -> FakeInfo:
            fetched.append((repo, revision))
            return FakeInfo()

    def download(repo: str, name: str, revision: str) -> str:
        fetched.append((repo, name, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert read_source("Qwen/Qwen2.5-0.5B@main").layers == 24
    assert fetched == [("Qwen/Qwen2.5-0.5B", "main"), ("Qwen/Qwen2.5-0.5B", "config.json", "abc")]
    FakeInfo.siblings = ()
    with pytest.raises(ExportError, match=r"has no config\.json"):
        hub.fetch_config("Qwen/Qwen2.5-0.5B")


@pytest.mark.export
def test_the_command_starts_as_a_process(
    tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run("plan", write_config(tmp_path / "q", "SmolLM2-135M"), "--board", "rk3588", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights"] == 134_515_008


@given(st.integers(1, 32768), st.sampled_from(board_names()), st.sampled_from(sorted(PUBLISHED)))
def test_advice_agrees_with_the_rows(context: int, board: str, name: str) -> None:
    shape = read_shape(PUBLISHED[name][0])
    plan = make_plan(name, shape, load_board(board), (), min(context, shape.context_length))
    assert plan.advice.startswith("Doesn't fit") == (not any(row.fits for row in plan.rows))
