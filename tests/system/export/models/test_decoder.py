"""The real builder on tiny models: they load and generate, bytes repeat, a failure leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from edgeslm_export.models.decoder import ExportOrder, export_model
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.quantize.targets import Goal
from edgeslm_export.sources.checkpoint import examine_local

from edgeslm.bundle.manifest import Bundle, load_bundle, verify_bundle
from edgeslm.errors import ExportError
from tests.support.export.fixtures import run_export

pytestmark = pytest.mark.export
MANUAL = "".join(
    f"Step {number}. Loosen the screw on the left of cover {number}, then lift it and clean the filter.\n"
    for number in range(400)
)
Run = Callable[..., subprocess.CompletedProcess[str]]


def assert_one_sentence(stderr: str) -> None:
    """Beside lines with the time left, which slow machines print."""
    lines = [line for line in stderr.splitlines() if not re.search(r", about .* left: \d+%$", line)]
    assert len(lines) == 1 and lines[0].startswith("edgeslm-export: "), stderr


def _files(bundle: Bundle) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in bundle.manifest.files}


def test_a_folder_becomes_a_bundle_with_the_same_bytes_each_time(
    tiny: Path, tmp_path: Path, run: Run
) -> None:
    copied = tmp_path / "elsewhere" / "plain"
    shutil.copytree(tiny / "plain", copied)
    text = tmp_path / "manual.txt"
    text.write_text(MANUAL)
    order = ("--recipe", "auto", "--max-kl", "0.5", "--calibration", text)
    first = run("model", tiny / "plain", tmp_path / "one", *order, "--json")
    assert first.returncode == 0, first.stderr
    card = json.loads(first.stdout)
    assert card["sample"]["tokens"] > 0
    assert card["prefill_tps"] > 0
    second = run("model", copied, tmp_path / "two", *order)
    assert second.returncode == 0, second.stderr
    assert "loaded again and used once" in second.stdout

    one, two = load_bundle(tmp_path / "one"), load_bundle(tmp_path / "two")
    verify_bundle(one)
    assert _files(one) == _files(two)
    assert one.digest == two.digest == card["digest"]

    manifest = one.manifest
    assert manifest.name == "plain-auto"
    assert manifest.architecture == "LlamaForCausalLM"
    assert manifest.context_length == 512
    assert manifest.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # K and V, layers, heads, head size, float32
    assert manifest.quantization is not None
    assert manifest.quantization.groups[-1].group == "*"
    assert {group.bits for group in manifest.quantization.groups} <= {4, 8}
    assert {"chat_template.jinja", "genai_config.json", "model.onnx", "model.onnx.data"} < set(_files(one))
    settings = json.loads((one.path / "tokenizer_config.json").read_text())
    assert settings["pad_token"] == settings["eos_token"] == "<|im_end|>"
    report = json.loads((one.path / "report.json").read_text())
    assert report["golden"]["differing"] == 0
    assert report["fidelity"]["kl_mean"] <= 0.5
    assert report["fidelity"]["text"].startswith("manual.txt (sha256:")
    graph = (one.path / "model.onnx").read_bytes()
    assert b"GatherBlockQuantized" in graph  # the embedding reads the head's matrix: tied, it is stored once
    assert b"model.embed_tokens.weight" not in graph
    assert sum(path.name.startswith(".") for path in tmp_path.iterdir()) == 0

    compared = ("--reference", tiny / "plain", "--text", text)
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}  # so no public text
    evaluated = run("evaluate", tmp_path / "one", *compared, **nowhere)
    assert evaluated.returncode == 0, evaluated.stderr
    shown = json.loads(evaluated.stdout.splitlines()[-1])
    assert shown["digest"] == one.digest
    assert shown["stated"] == report["fidelity"]
    (likeness,) = shown["fidelity"]
    assert likeness["text"] == report["fidelity"]["text"]
    assert likeness["kl_mean"] == pytest.approx(report["fidelity"]["kl_mean"], rel=0.02)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    other = run("evaluate", tmp_path / "one", "--reference", tiny / "plain.gguf", "--text", text, **nowhere)
    assert other.returncode == 1
    assert "259 tokens in its vocabulary" in other.stderr
    assert other.stderr.splitlines()[-1].endswith("name the float model that the bundle was made of.")
    again = run("model", tiny / "plain", tmp_path / "one", "--recipe", "int4")
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.fixture(scope="module")
def taken_over(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is exported of a quantized GGUF in its own format, on the second day of 1970."""
    folder = tmp_path_factory.mktemp("taken-over")
    (text := folder / "manual.txt").write_text(MANUAL)
    order = ("--recipe", "int8", "--calibration", text)
    done = run_export("model", tiny / "plain.gguf", folder / "out", *order, SOURCE_DATE_EPOCH="86400")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_a_quantized_gguf_becomes_a_bundle(taken_over: Path) -> None:
    manifest = load_bundle(taken_over).manifest
    assert manifest.created == "1970-01-02T00:00:00Z"
    assert manifest.source.licence == "apache-2.0"
    assert manifest.quantization is not None
    assert manifest.quantization.recipe == "int8"
    assert {group.bits for group in manifest.quantization.groups} == {8}
    tokenizer = json.loads((taken_over / "tokenizer.json").read_text())
    kinds = [part["type"] for part in tokenizer["pre_tokenizer"]["pretokenizers"]]
    assert kinds == ["Digits", "ByteLevel"]


def test_an_export_over_its_divergence_fails_with_the_numbers_and_leaves_nothing(
    tiny: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "made" / "out"
    out.parent.mkdir()
    text = tmp_path / "manual.txt"
    text.write_text(MANUAL)
    limit = ("--recipe", "int4", "--max-kl", "1e-9", "--calibration", text)
    done = run("model", tiny / "plain", out, *limit)
    assert done.returncode == 1
    numbers = r"is 0\.\d+ nats a token, where --max-kl allows 1e-09 \([\d,]+ bytes\)"
    assert re.search(numbers, done.stderr), done.stderr
    assert_one_sentence(done.stderr)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_too_few_bytes_are_refused_with_the_numbers(
    recipe: str, tiny: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "made" / "out"
    out.parent.mkdir()
    text = tmp_path / "manual.txt"
    text.write_text(MANUAL)
    done = run(
        "model", tiny / "plain", out, "--recipe", recipe, "--max-bytes", "50000", "--calibration", text
    )
    assert done.returncode == 1
    assert re.search(r"has (some )?[\d,]{6,} bytes and --max-bytes allows 50,000; allow more", done.stderr), (
        done.stderr
    )
    assert_one_sentence(done.stderr)
    assert list(out.parent.iterdir()) == []


def test_a_calibrated_recipe_without_text_is_refused(tiny: Path, tmp_path: Path) -> None:
    origin = examine_local(tiny / "plain", "decoder")
    for order in (ExportOrder(find_recipe("int4-mixed")), ExportOrder(find_recipe("int8"), Goal(max_kl=0.1))):
        with pytest.raises(ExportError, match=f"The recipe {order.recipe.name} needs text.*--calibration"):
            export_model(origin, tmp_path / "out", order)
    assert list(tmp_path.iterdir()) == []


def test_without_a_package_index_the_way_out_is_named(tiny: Path, tmp_path: Path, run: Run) -> None:
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = run("model", tiny / "plain", tmp_path / "out", "--recipe", "int4-mixed", **nowhere)
    assert done.returncode == 1
    assert "Or name a text of your own with --calibration." in done.stderr
    assert not (tmp_path / "out").exists()
    done = run("model", tiny / "plain", tmp_path / "out", "--recipe", "int8", **nowhere)
    assert done.returncode == 0, done.stderr
    assert "The divergence from the float model isn't measured" in done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "fidelity" not in report


def test_a_quantized_gguf_is_taken_over_and_the_report_says_so(taken_over: Path) -> None:
    report = json.loads((taken_over / "report.json").read_text())
    assert report["source_was_quantized"] is True
    assert report["source_tensors"]["Q8_0"] == report["taken_over_without_loss"] == 2 * 7 + 1
    assert report["formats"] == {"8 bits, groups of 32": 2 * 7 + 1}


@pytest.mark.parametrize(("shard_bytes", "shards"), [(10**9, "1"), (20_000, "several")])
def test_a_dequantized_checkpoint_keeps_its_numbers_and_its_tie(
    tiny: Path, tmp_path: Path, shard_bytes: int, shards: str
) -> None:
    code = """
import json, sys
from pathlib import Path
import gguf, numpy as np
from safetensors.numpy import load_file
from edgeslm_export.sources.layer_reader import LayeredModel
from edgeslm_export.sources.normalize import make_checkpoint
source, out = Path(sys.argv[1]), Path(sys.argv[2])
make_checkpoint(source, "LlamaForCausalLM", out, shard_bytes=int(sys.argv[3]))
tensors = {t.name: t for t in gguf.GGUFReader(source).tensors}
weights = {}
files = sorted(out.glob("*.safetensors"))
for file in files:
    weights |= load_file(file)
assert len(files) == 1 or (out / "model.safetensors.index.json").is_file()
LayeredModel(out).load_layer(1)
print(len(files))
pairs = {"token_embd": "model.embed_tokens", "blk.1.ffn_down": "model.layers.1.mlp.down_proj"}
for old, new in pairs.items():
    tensor = tensors[old + ".weight"]
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert np.array_equal(expected, weights[new + ".weight"]), old
assert "lm_head.weight" not in weights
config = json.loads((out / "config.json").read_text())
assert config["tie_word_embeddings"] is True and "quantization_config" not in config
"""
    command = [sys.executable, "-c", code, str(tiny / "plain.gguf"), str(tmp_path / "out"), str(shard_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (int(done.stdout.split()[-1]) > 1) == (shards == "several")


def test_two_copies_of_a_tied_embedding_become_the_better_one(tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
import gguf, numpy as np
from safetensors.numpy import load_file
from edgeslm_export.models.plan import read_source
from edgeslm_export.sources.normalize import make_checkpoint
from tests.support.export.tiny_models import write_gguf
source, out = Path(sys.argv[1]) / "twice.gguf", Path(sys.argv[1]) / "out"
write_gguf(source, "Q4_0", "Q8_0")
make_checkpoint(source, "LlamaForCausalLM", out)
weights = load_file(out / "model.safetensors")
head = next(t for t in gguf.GGUFReader(source).tensors if t.name == "output.weight")
expected = gguf.quants.dequantize(head.data, head.tensor_type)
assert np.array_equal(expected, weights["model.embed_tokens.weight"])
assert "lm_head.weight" not in weights
assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
assert read_source(str(source)).tied
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_damaged_weights_are_noticed_and_nothing_is_left(tiny: Path, tmp_path: Path, run: Run) -> None:
    source = tmp_path / "source.gguf"
    data = bytearray((tiny / "plain.gguf").read_bytes())
    data[-80_000:-1_000] = b"\xff" * 79_000  # scales become NaN
    source.write_bytes(data)
    done = run("model", source, tmp_path / "out", "--recipe", "int4")
    assert done.returncode == 1
    assert "that aren't finite" in done.stderr
    assert_one_sentence(done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_export_goes_on(tiny: Path, tmp_path: Path, how: signal.Signals, run: Run) -> None:
    command = [sys.executable, "-m", "edgeslm_export", "model", str(tiny / "plain"), str(tmp_path / "out")]
    # Started in the background, as in some CI, this process ignores SIGINT and its children would too.
    export = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)],
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.work-*/checkpoint")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        if how == signal.SIGINT:
            os.killpg(export.pid, how)  # as a terminal does
        else:
            export.send_signal(how)
        _, errors = export.communicate(timeout=60)
    finally:
        export.kill()
    assert export.returncode == 130
    assert errors.strip() == "edgeslm-export: interrupted; the same command resumes from here."
    (work,) = tmp_path.iterdir()
    assert work.name.startswith(".out.work-")
    assert run("model", tiny / "plain", tmp_path / "out").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_parent_imports_no_heavy_library(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from edgeslm_export.cli import main as cli\n"
        "status = cli.main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'onnxruntime_genai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-c", code, "model", str(tiny / "bert"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the command for it is `edgeslm-export encoder`" in done.stderr
