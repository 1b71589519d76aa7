"""From a checkpoint to codes and on to a graph: what onnxruntime computes is the model with those weights.

One child makes everything (the builder changes the interpreter's path), a study and a build for each case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the inference library is imported

import numpy as np
import onnxruntime
import pytest
import torch
from edgeslm_export.evaluate import fidelity
from edgeslm_export.quantize import worker as steps
from edgeslm_export.quantize.calibration_stream import CalibrationStream
from edgeslm_export.quantize.formats import ROW, Format
from edgeslm_export.quantize.packing import load_codes
from edgeslm_export.quantize.worker import quantize, study
from edgeslm_export.sources.layer_reader import LayeredModel

from edgeslm.errors import ExportError
from tests.support.export.tiny_models import byte_tokenizer, decoder, write_gguf

pytestmark = pytest.mark.export
torch.set_num_threads(1)  # what is so small is only slowed down by more

TEXT = "\n".join(
    f"Step {number}. Loosen screw {number}, then lift the cover and clean it." for number in range(90)
)
# Case: family, settings of its configuration, formats of layers, of embedding and head. Widths that are no
# multiple of the group size are padded.
CASES: dict[str, tuple[str, dict[str, Any], Format, Format]] = {
    "tied": ("llama", {"tie_word_embeddings": True}, Format(4, 32), Format(8, 64)),
    "padded": (
        "llama",
        {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 1, "intermediate_size": 112},
        Format(4, 64),
        Format(4, 64),
    ),
    "fused": ("phi3", {"tie_word_embeddings": False}, Format(8, 64), Format(4, 32)),
    "biased": ("qwen2", {"tie_word_embeddings": False}, Format(4, 32), Format(8, 32)),
    "scaled": ("gemma2", {"tie_word_embeddings": True}, Format(4, 32), Format(8, 64)),
    "normed": ("qwen3", {"tie_word_embeddings": True}, Format(4, 64), Format(8, 64)),
    "untied": ("mistral", {"tie_word_embeddings": False}, Format(4, 32), Format(4, 64)),
    "by row": ("llama", {"tie_word_embeddings": True}, Format(8, ROW), Format(8, 64)),
    "by row, fused": ("phi3", {"tie_word_embeddings": False}, Format(8, ROW), Format(8, 64)),
    "by row, rounded": ("qwen2", {"tie_word_embeddings": False}, Format(8, ROW), Format(8, 64)),
}
EXACT = [case for case, (_, _, layers, _) in CASES.items() if not layers.by_row]
"""Their products can be made to read floats, to be compared; those by row read nothing but integers."""
ROUNDED = ("biased", "by row, rounded")
MAKE = """
import json, sys
import edgeslm_export.graph.builder_worker as build

class FakeReporter:
    def progress(self, *_): pass

for path in sys.argv[1:]:
    with open(path) as file:
        task = json.load(file)
    build._ACCURACY_LEVEL = task["level"]
    build.build(task, FakeReporter())
"""


class FakeReporter:
    """Hears of progress and says nothing."""

    def progress(self, done: int, total: int, what: str) -> None:
        assert 0 <= done <= total


def _task(work: Path, source: Path, architecture: str, **more: Any) -> dict[str, Any]:
    return {
        "work": str(work),
        "source": str(source),
        "architecture": architecture,
        "quantized_source": False,
        "texts": {"calibration": [[TEXT]], "conversations": [], "evaluation": [TEXT[:1500]]},
        "tokens": {"calibration": 1024, "evaluation": 256},
        "reference_bytes": 10**9,
        "formats": [],
        **more,
    }


def _source(name: str, folder: Path, **settings: Any) -> Path:
    torch.manual_seed(7)
    tokenizer = byte_tokenizer()
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    model = decoder(name, vocab_size=len(tokenizer), **tokens, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() == 2 else 1.0)
            if parameter.dim() == 1:  # norms and biases that are not all the same
                parameter.add_(torch.rand_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A work folder of each case, with ``bundle`` (products in float32); ``fast`` has them in int8."""
    folders, tasks = {}, []
    for case, (name, settings, layers, top) in CASES.items():
        work = folders[case] = tmp_path_factory.mktemp(case)
        source = _source(name, work / "source", **settings)
        architecture = json.loads((source / "config.json").read_text())["architectures"][0]
        found = study(_task(work, source, architecture), FakeReporter())  # type: ignore[arg-type]
        formats = {matrix: layers if ".layers." in matrix else top for matrix in found["matrices"]}
        pairs = {matrix: [form.bits, form.group_size] for matrix, form in formats.items()}
        task = {"work": str(work), "exact": {}, "compensate": case not in ROUNDED}
        task["formats"] = {matrix: [pair] for matrix, pair in pairs.items()}
        assert quantize(task, FakeReporter()) == {"losses": {}}  # type: ignore[arg-type]
        task["formats"] = pairs
        options = {"prune_lm_head": "true", "fuse_mlp_gate_up": "true", "block_size": str(top.group_size)}
        task["options"] = {"accuracy_level": "4", **options}
        for level, out in ((1, "bundle"), (4, "fast")) if case == "tied" else ((1, "bundle"),):
            file = work / ("task.json" if level == 1 else "fast.json")
            file.write_text(json.dumps({**task, "level": level, "out": str(work / out)}))
            tasks.append(str(file))
    command = [sys.executable, "-c", MAKE, *tasks]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


def _dequantized(work: Path) -> LayeredModel:
    """The checkpoint's model with the weights that its codes stand for."""
    formats = {
        name: Format(*pair) for name, pair in json.loads((work / "task.json").read_text())["formats"].items()
    }
    model = LayeredModel(work / "checkpoint")
    for number in range(len(model.layers)):
        model.load_layer(number)
    with torch.inference_mode():
        for name, matrix in load_codes(work / "codes", formats):
            model.model.get_submodule(name).weight.copy_(torch.from_numpy(matrix.weights()))
    return model


@pytest.mark.parametrize("case", EXACT)
def test_the_graph_computes_the_model_that_its_codes_are(case: str, works: dict[str, Path]) -> None:
    tokens = np.load(works[case] / "evaluation.npy")[0][:200].tolist()
    (logits,) = fidelity.bundle_logits(works[case] / "bundle", [tokens], threads=1)
    with torch.inference_mode():
        expected = _dequantized(works[case]).model(torch.tensor([tokens])).logits[0].numpy()
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("case", [case for case in CASES if case not in EXACT])
def test_products_by_row_are_near_the_model_that_their_codes_are(case: str, works: dict[str, Path]) -> None:
    tokens = np.load(works[case] / "evaluation.npy")[0][:200].tolist()
    (logits,) = fidelity.bundle_logits(works[case] / "bundle", [tokens], threads=1)
    with torch.inference_mode():
        expected = _dequantized(works[case]).model(torch.tensor([tokens])).logits[0].numpy()
    comparison = fidelity.Comparison()
    comparison.add(expected, logits, tokens)
    assert comparison.figures()["kl_mean"] < 0.05


def test_products_with_int8_activations_are_near(works: dict[str, Path]) -> None:
    tokens = np.load(works["tied"] / "evaluation.npy")[0][:200].tolist()
    (exact,) = fidelity.bundle_logits(works["tied"] / "bundle", [tokens], threads=1)
    (fast,) = fidelity.bundle_logits(works["tied"] / "fast", [tokens], threads=1)
    comparison = fidelity.Comparison()
    comparison.add(exact, fast, tokens)
    figures = comparison.figures()
    assert figures["kl_mean"] < 0.05
    assert figures["same_top1"] > 0.8


@pytest.mark.parametrize("case", ["tied", "fused"])
def test_every_position_gives_the_last_logits_of_the_pruned_graph(case: str, works: dict[str, Path]) -> None:
    bundle = works[case] / "bundle"
    settings = json.loads((bundle / "genai_config.json").read_text())["model"]["decoder"]
    tokens = np.load(works[case] / "evaluation.npy")[:1, :40].astype(np.int64)
    cache = np.zeros((1, settings["num_key_value_heads"], 0, settings["head_size"]), np.float32)
    inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}

    def run(folder: Path) -> Any:
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        wanted = {i.name: inputs.get(i.name, cache) for i in session.get_inputs()}
        return session.run(["logits"], wanted)[0]

    with fidelity.every_position(bundle, bundle.parent) as whole:
        every = run(whole)
    assert not whole.exists()
    last = run(bundle)
    assert last.shape[1] == 1
    assert every.shape[1] == 40
    assert np.allclose(every[:, -1], last[:, -1], atol=1e-4)


def test_the_reference_is_the_float_model(works: dict[str, Path]) -> None:
    work = works["tied"]
    model = LayeredModel(work / "checkpoint")
    for number in range(len(model.layers)):
        model.load_layer(number)
    ids = np.load(work / "evaluation.npy")
    assert ids.shape[1] == 512 or len(ids) == 1
    with torch.inference_mode():
        expected = model.model(torch.from_numpy(ids).long()).logits.flatten(0, 1).numpy()
    reference = np.load(work / "reference.npy")
    assert np.abs(reference - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_small_reference_is_of_one_sequence_at_least(tmp_path: Path) -> None:
    task = _task(tmp_path, _source("llama", tmp_path / "source"), "LlamaForCausalLM", reference_bytes=1)
    task["texts"]["evaluation"] = [TEXT]
    task["tokens"]["evaluation"] = 1024
    study(task, FakeReporter())  # type: ignore[arg-type]
    assert np.load(tmp_path / "evaluation.npy").shape == (1, 512)
    assert len(np.load(tmp_path / "reference.npy")) == 512


@pytest.mark.parametrize("part", ["calibration", "evaluation"])
def test_a_text_without_tokens_is_refused(part: str, tmp_path: Path) -> None:
    """The reference divided by the length of no row."""
    task = _task(tmp_path, _source("llama", tmp_path / "source"), "LlamaForCausalLM")
    task["texts"][part] = [""]
    with pytest.raises(ExportError, match=f"The text for {part} has 0 tokens; take a longer text"):
        study(task, FakeReporter())  # type: ignore[arg-type]


def test_calibrated_codes_are_nearer_than_rounded_ones(works: dict[str, Path], tmp_path: Path) -> None:
    work = works["tied"]
    task = {**json.loads((work / "task.json").read_text()), "compensate": False}
    task["formats"] = {matrix: [pair] for matrix, pair in task["formats"].items()}
    with torch.inference_mode():
        ids = torch.from_numpy(np.load(work / "calibration.npy")).long()
        whole = LayeredModel(work / "checkpoint")
        for number in range(len(whole.layers)):
            whole.load_layer(number)
        expected = whole.model(ids).logits
        compensated = _dequantized(work).model(ids).logits
        (work / "codes").rename(tmp_path / "codes")
        try:
            quantize(task, FakeReporter())  # type: ignore[arg-type]
            rounded = _dequantized(work).model(ids).logits
        finally:
            for file in (work / "codes").iterdir():
                file.unlink()
            (work / "codes").rmdir()
            (tmp_path / "codes").rename(work / "codes")
    assert (compensated - expected).square().mean() < 0.8 * (rounded - expected).square().mean()


class InterruptedReporter(FakeReporter):
    """Ends a step at its second layer."""

    def progress(self, done: int, total: int, what: str) -> None:
        if done == 1:
            raise KeyboardInterrupt


class CountingReporter(FakeReporter):
    def __init__(self) -> None:
        self.layers: list[int] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.layers.append(done)


def test_an_interrupted_quantization_goes_on_after_the_last_layer(tmp_path: Path) -> None:
    source = _source("llama", tmp_path / "source", tie_word_embeddings=True)
    task = _task(tmp_path, source, "LlamaForCausalLM", formats=[[4, 32], [8, 64]])
    found = study(task, FakeReporter())  # type: ignore[arg-type]
    formats = {name: [[4, 32], [8, 64]] for name in found["matrices"]}
    order = {"work": str(tmp_path), "exact": {}, "compensate": True, "formats": formats}
    with pytest.raises(KeyboardInterrupt):
        quantize(order, InterruptedReporter())  # type: ignore[arg-type]
    again = CountingReporter()
    resumed = quantize(order, again)  # type: ignore[arg-type]
    assert again.layers == [1]
    kept = _arrays(tmp_path / "codes")
    other = {**order, "formats": {name: [[4, 32]] for name in formats}}
    whole = CountingReporter()
    quantize(other, whole)  # type: ignore[arg-type]
    assert whole.layers == [0, 1], "another task begins anew"
    assert quantize(order, FakeReporter()) == resumed  # type: ignore[arg-type]
    made = _arrays(tmp_path / "codes")
    assert made.keys() == kept.keys()
    assert all(np.array_equal(made[key], kept[key]) for key in made)


def _arrays(codes: Path) -> dict[str, Any]:
    return {
        f"{file.name}/{key}": array
        for file in sorted(codes.glob("*.npz"))
        for key, array in np.load(file).items()
    }


def test_an_interrupted_study_keeps_checkpoint_and_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeslm_export.sources import normalize

    source = _source("llama", tmp_path / "source", tie_word_embeddings=True)
    task = _task(tmp_path, source, "LlamaForCausalLM")
    first = study(task, FakeReporter())  # type: ignore[arg-type]
    written = (tmp_path / "reference.npy").stat().st_mtime_ns
    monkeypatch.setattr(normalize, "make_checkpoint", lambda *_: pytest.fail("made again"))
    assert study(task, FakeReporter()) == first  # type: ignore[arg-type]
    assert (tmp_path / "reference.npy").stat().st_mtime_ns == written
    task["texts"]["evaluation"] = [TEXT[1500:3000]]
    study(task, FakeReporter())  # type: ignore[arg-type]
    assert (tmp_path / "reference.npy").stat().st_mtime_ns > written, "logits of another text"


@pytest.mark.parametrize("case", CASES)
def test_blocks_with_known_inputs_are_not_computed_again(case: str, works: dict[str, Path]) -> None:
    model = LayeredModel(works[case] / "checkpoint")
    stream = CalibrationStream(model, torch.from_numpy(np.load(works[case] / "calibration.npy")).long())
    with torch.inference_mode(), model.borrowed(0):
        own = {
            name: module for name, module in model.matrices().items() if name.startswith("model.layers.0.")
        }
        expected = model.run(0, stream.hidden, stream._calls)
        stages = stream.stages(0, own)
        for stage in stages:
            name, matrix = next(iter(stage.items()))
            before = torch.cat(list(stream.inputs(0, name, matrix)))
            known, stream._known = stream._known, {}
            assert torch.equal(torch.cat(list(stream.inputs(0, name, matrix))), before)
            stream._known = known
        assert len(stream._known) == 2, "attention and MLP"
        stream.advance(0)
        assert torch.equal(stream.hidden, expected)
        assert "forward" not in vars(model.layers[0].mlp)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_quantized_gguf_is_taken_over_without_loss(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "tiny.gguf"
    write_gguf(source, kind)
    work = tmp_path / "work"
    work.mkdir()
    found = study(
        _task(work, source, "LlamaForCausalLM", quantized_source=True),
        FakeReporter(),  # type: ignore[arg-type]
    )
    form = [{"Q8_0": 8, "Q4_0": 4}[kind], 32]
    assert found["exact"] == dict.fromkeys(found["matrices"], form)  # q and k too, whose rows are reordered
    task = {"work": str(work), "exact": found["exact"], "compensate": True}
    task["formats"] = {matrix: [pair] for matrix, pair in found["exact"].items()}
    quantize(task, FakeReporter())  # type: ignore[arg-type]
    (work / "task.json").write_text(json.dumps({"formats": found["exact"]}))
    untouched, taken = LayeredModel(work / "checkpoint"), _dequantized(work)
    untouched.load_layer(1)
    for name, matrix in untouched.matrices().items():
        if not matrix.weight.is_meta:
            assert torch.equal(matrix.weight, taken.matrices()[name].weight), name


def test_losses_are_measured_for_every_matrix_and_tied_ones_are_added(tmp_path: Path) -> None:
    pairs = [[4, 32], [4, 64], [8, 64]]
    source = _source("llama", tmp_path / "source", tie_word_embeddings=True)
    task = _task(tmp_path, source, "LlamaForCausalLM", formats=pairs)
    found = study(task, FakeReporter())  # type: ignore[arg-type]
    formats = dict.fromkeys(found["matrices"], pairs)
    task = {"work": str(tmp_path), "formats": formats, "exact": {}, "compensate": True}
    losses = quantize(task, FakeReporter())["losses"]  # type: ignore[arg-type]
    assert found["losses"].keys() == found["matrices"].keys()
    assert losses.keys() == found["matrices"].keys() - {"lm_head"}
    for rows in [*losses.values(), *found["losses"].values()]:
        assert [row[:2] for row in rows] == pairs
        assert 0 < rows[2][2] < 0.5 * rows[0][2]  # eight bits in groups of 64 against four in 32
    for pair in pairs:  # every one of them can be built
        chosen = dict.fromkeys(found["matrices"], Format(*pair))
        codes = dict(load_codes(tmp_path / "codes", chosen))
        assert codes.keys() == chosen.keys()
        assert all(matrix.codes.max() <= Format(*pair).highest for matrix in codes.values())


def test_the_first_token_of_a_sequence_is_read_well_where_values_are_made(tmp_path: Path) -> None:
    """Attention rests on it, and counted as one token of many it lost more by GPTQ than by rounding."""
    source = _source("llama", tmp_path / "source")
    task = _task(tmp_path, source, "LlamaForCausalLM")
    found = study(task, FakeReporter())  # type: ignore[arg-type]
    model = LayeredModel(tmp_path / "checkpoint")
    ids = torch.from_numpy(np.load(tmp_path / "calibration.npy")).long()
    name = "model.layers.0.self_attn.v_proj"
    with torch.inference_mode():
        hidden = model.embed(ids)
        with model.borrowed(0) as layer:
            read = layer.input_layernorm(hidden)
            weight = layer.self_attn.v_proj.weight.clone()

    def lost(compensate: bool) -> tuple[float, float]:
        formats = {key: [[4, 32]] for key in found["matrices"]}
        task = {"work": str(tmp_path), "formats": formats, "exact": {}, "compensate": compensate}
        quantize(task, FakeReporter())  # type: ignore[arg-type]
        made = dict(load_codes(tmp_path / "codes", {name: Format(4, 32)}))[name]
        with torch.inference_mode():
            error = read @ (torch.from_numpy(made.weights()) - weight).T
        return float(error[:, 0].square().mean()), float(error.square().mean())

    (first, mean), (rounded_first, _) = lost(True), lost(False)
    assert first < 0.5 * rounded_first
    assert first < mean


def test_a_folder_whose_weights_are_damaged_is_refused(tmp_path: Path) -> None:
    source = _source("llama", tmp_path / "source")
    from safetensors.torch import load_file, save_file

    state = load_file(source / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.inf
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"up_proj\.weight holds numbers that aren't finite"):
        study(_task(tmp_path, source, "LlamaForCausalLM"), FakeReporter())  # type: ignore[arg-type]


def test_what_the_source_has_already_needs_no_calibration() -> None:
    """A file that is Q4_0 throughout: nothing has to run through the layer for its second moments."""

    class FakeStream:
        def moments(self, *_: object, keep: bool) -> Any:
            raise AssertionError("the layer ran")

    stream: Any = FakeStream()
    form, matrix = Format(4, 32), torch.nn.Linear(64, 8, bias=False)
    codes = torch.randint(-8, 8, (8, 64), generator=torch.Generator().manual_seed(2)).float()
    codes[:, ::32] = -8  # ggml's scale is that of the largest weight
    matrix.weight.data = codes * 0.5
    stage, forms = {"m": matrix}, {"m": [form]}
    with torch.inference_mode():
        made = steps.compensate_layer(stream, 0, stage, forms, {"m": form}, None, {})
        assert np.array_equal(made["m", form].weights(), matrix.weight.numpy())
        with pytest.raises(AssertionError, match="the layer ran"):
            steps.compensate_layer(stream, 0, stage, forms, {}, None, {})
