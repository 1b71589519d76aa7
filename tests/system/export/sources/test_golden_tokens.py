"""The golden gate: a bundle that reads texts otherwise than its source is refused, with the numbers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.models import decoder
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources import golden_tokens
from edgeslm_export.sources.checkpoint import examine_local

from edgeslm.errors import ExportError
from tests.support.export.children import FakeChildren
from tests.support.export.families import fetch

_RECORD = """
import sys
from pathlib import Path
from edgeslm_export.sources import golden_tokens
from edgeslm_export.sources.normalize import make_checkpoint
source, work = Path(sys.argv[1]), Path(sys.argv[2])
golden_tokens.write_record(make_checkpoint(source, sys.argv[3], work / "checkpoint"), source, work)
"""
Tokenizer = dict[str, Any]


def _record(source: Path, work: Path, architecture: str) -> Path:
    """``golden.json`` and the clean checkpoint of ``source``, by a process that may import transformers."""
    work.mkdir()
    command = [sys.executable, "-c", _RECORD, str(source), str(work), architecture]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return work


@pytest.fixture(scope="module")
def llama(families: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conversion of the tiny Llama has written down, and its ``checkpoint``."""
    return _record(families / "llama", tmp_path_factory.mktemp("golden") / "work", "LlamaForCausalLM")


def _bundle_of(work: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(work / "checkpoint" / name, folder / name)
    return folder


def _edit_tokenizer(folder: Path, change: Callable[[Tokenizer], None]) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_bytes())
    change(tokenizer)
    file.write_text(json.dumps(tokenizer))


def _remove_a_merge(folder: Path) -> None:
    """The rarest one: no text of the golden set needs it."""
    _edit_tokenizer(folder, lambda tokenizer: tokenizer["model"]["merges"].pop())


def _remove_a_common_merge(folder: Path) -> None:
    def change(tokenizer: Tokenizer) -> None:
        merges = tokenizer["model"]["merges"]
        merges[:] = [merge for merge in merges if list(merge) != ["h", "e"] and merge != "h e"]

    _edit_tokenizer(folder, change)


def _lower_case(folder: Path) -> None:
    _edit_tokenizer(folder, lambda tokenizer: tokenizer.update(normalizer={"type": "Lowercase"}))


def _split_digits(folder: Path) -> None:
    def change(tokenizer: Tokenizer) -> None:
        digits = {"type": "Digits", "individual_digits": True}
        parts = [digits, tokenizer["pre_tokenizer"]]
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}

    _edit_tokenizer(folder, change)


def _rename_a_special_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_end|>", "<|im_over|>"))


def _no_generation_prompt(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("add_generation_prompt", "false"))


def _other_system_message(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("You are a helpful AI assistant", "You are a pirate"))


TAMPERED: Mapping[Callable[[Path], None], str] = {
    _remove_a_merge: r"it has \d+ merges of tokens, the source \d+ or others",
    _remove_a_common_merge: r"\d+ of 61 texts differ in their tokens, the first: .* merges of tokens",
    _lower_case: r"\d+ of 61 texts differ in their tokens, the first: 'The compressor",
    _split_digits: r"\d+ of 61 texts differ in their tokens, the first: '3.14159 .* gives \[",
    _rename_a_special_token: r"1 of \d+ tokens have another name, the first: number \d+ is '<\|im_over\|>'",
    _no_generation_prompt: r"14 of 14 chats differ, the first: 'Hi' is rendered with nothing, "
    r"the source has '<\|im_start\|>assistant",
    _other_system_message: r"\d+ of 14 chats differ, the first: 'Hi' is rendered with 'pirate",
}


def test_the_set_is_as_large_as_it_says() -> None:
    assert len(golden_tokens.TEXTS) == len(set(golden_tokens.TEXTS)) == 61
    assert len(golden_tokens.CHATS) == 14
    assert not any("\0" in text for text in golden_tokens.TEXTS)


@pytest.mark.export
def test_an_untouched_bundle_is_the_same(llama: Path, tmp_path: Path) -> None:
    found = golden_tokens.check(llama, _bundle_of(llama, tmp_path / "bundle"))
    assert found["differing"] == 0
    assert found["texts"] == 61


CACHE = {"num_hidden_layers": 1, "num_key_value_heads": 1, "head_size": 8}
CONFIG = {"model": {"context_length": 64, "decoder": CACHE}}


@pytest.mark.export
@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__.strip("_"))
def test_an_export_that_differs_fails_with_the_numbers_and_leaves_nothing(
    tamper: Callable[[Path], None],
    llama: Path,
    families: Path,
    tmp_path: Path,
    children: FakeChildren,
) -> None:
    def fake_child(task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        """Stands in for the conversion's processes: a graph of no use and a tokenizer that went wrong."""
        if task.get("step") == "study":
            shutil.copyfile(llama / golden_tokens.FILE, Path(task["work"]) / golden_tokens.FILE)
            matrices = {"lm_head": [64, 64]}
            return {"matrices": matrices, "layers": 1, "exact": {}, "report_bytes": 0}
        if task.get("step") == "quantize":
            return {"exact": 0}
        out = Path(task["out"])
        _bundle_of(llama, out)
        (out / "model.onnx").write_bytes(b"")
        (out / "genai_config.json").write_text(json.dumps(CONFIG))
        tamper(out)
        return {}

    children.steps["*"] = fake_child
    origin = examine_local(families / "llama", "decoder")
    with pytest.raises(ExportError, match=TAMPERED[tamper]) as refused:
        decoder.export_model(origin, tmp_path / "out", decoder.ExportOrder(find_recipe("int4")))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.export
def test_a_template_that_changes_by_itself_is_refused(
    tiny: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny / "plain", source)
    template = source / "chat_template.jinja"
    template.write_text('{{ strftime_now("%S.%f") }}' + template.read_text())
    done = run("model", source, tmp_path / "out", "--recipe", "int4")
    assert done.returncode == 1
    assert re.search(r"14 of 14 chats differ, the first: 'Hi' is rendered with", done.stderr)
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.export
def test_what_a_file_says_is_kept_where_transformers_makes_the_tokenizer_anew(
    families: Path, tmp_path: Path
) -> None:
    """transformers 5 gives Qwen's class its own normalizer, whatever ``tokenizer.json`` says."""
    source = tmp_path / "source"
    shutil.copytree(families / "qwen2", source)
    _lower_case(source)
    work = _record(source, tmp_path / "work", "Qwen2ForCausalLM")
    assert golden_tokens.check(work, _bundle_of(work, tmp_path / "bundle"))["differing"] == 0
    recorded = json.loads((work / golden_tokens.FILE).read_bytes())
    assert recorded["texts"][5]["decoded"] == "hello hello"


@pytest.mark.export
def test_a_gguf_is_held_to_the_tokens_in_its_header(tiny: Path, tmp_path: Path) -> None:
    work = _record(tiny / "plain.gguf", tmp_path / "work", "LlamaForCausalLM")
    bundle = _bundle_of(work, tmp_path / "bundle")
    assert golden_tokens.check(work, bundle)["differing"] == 0
    recorded = json.loads((work / golden_tokens.FILE).read_bytes())
    assert recorded["merges"][0] == 1
    recorded["tokens"]["258"] = "renamed"
    assert "tokens have another name" in " ".join(golden_tokens.compare(recorded, bundle).problems)


@pytest.mark.export
def test_a_sentencepiece_file_reads_as_sentencepiece_itself_does(families: Path, tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    work = _record(families / "mistral", tmp_path / "work", "MistralForCausalLM")
    recorded = json.loads((work / golden_tokens.FILE).read_bytes())
    own = SentencePieceProcessor(model_file=str(fetch() / "mistral.model"))
    for text, found in zip(golden_tokens.TEXTS, recorded["texts"], strict=True):
        assert found["spelled"] == own.encode(text), text
