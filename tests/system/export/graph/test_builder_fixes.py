"""Float graphs of all architectures, and the builder's faults: logits against transformers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from edgeslm_export.graph import builder_fixes
from edgeslm_export.models.plan import formats_of
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import DECODERS, examine_local

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.bundle.model_shape import read_shape
from edgeslm.bundle.size_estimate import footprint
from edgeslm.engine.calls import CallRule, Generate, Prompt, Sampling, Text, Tool, Turn
from edgeslm.engine.worker.decoder import Decoder
from tests.support.export.float_graphs import build_float, difference
from tests.support.export.rewinds import check_rewinds
from tests.support.export.text_models import CASES, write_case
from tests.support.paths import ROOT

pytestmark = pytest.mark.export

LIMITS = {"Nemotron": 5e-3, "Phi": 2e-3, "Qwen3_5": 5e-5, "Qwen3.5, multimodal": 5e-5}
"""Largest difference relative to the largest logit, where the builder writes a GELU, a norm or a linear
attention otherwise."""
NEW = (
    *("FunctionGemma", "Gemma 3, multimodal", "Ministral 3", "Granite 4", "Phi-4-mini", "Lfm2", "Qwen3_5"),
    *("LFM2-VL", "Qwen3.5, multimodal"),
)
WITH_STATE = ("Lfm2", "Qwen3_5", "LFM2-VL", "Qwen3.5, multimodal")


@pytest.mark.parametrize("name", CASES)
def test_a_float_graph_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    """A prompt, token by token, and after a rewind."""
    write_case(name, tmp_path / "source")
    found = difference(tmp_path / "source", build_float(tmp_path / "source", tmp_path / "work"))
    assert found < LIMITS.get(name, 1e-5)


def test_every_architecture_has_a_float_graph(tmp_path: Path) -> None:
    found = set()
    for number, name in enumerate(CASES):
        write_case(name, tmp_path / str(number))
        found.add(examine_local(tmp_path / str(number), "decoder").architecture)
    assert found == set(DECODERS)


FAULTS: dict[str, tuple[str, Callable[..., object]]] = {
    "Gemma 3, stretched": ("_two_caches", lambda fixes: _original("gemma", "Gemma3Model", fixes)),
    "Ministral 3": ("_yarn_frequencies", lambda fixes: _original("base", "Model", fixes)),
}


def _original(module: str, owner: str, fixes: ModuleType) -> object:
    import importlib

    import onnxruntime_genai.models.builder  # noqa: F401  puts its folder on sys.path

    name = {
        "_two_caches": "make_rotary_embedding_multi_cache",
        "_yarn_frequencies": "make_inv_freq_rescaled_with_ntk",
    }[next(fix for case, (fix, _) in FAULTS.items() if ("Gemma" in case) == (module == "gemma"))]
    return getattr(getattr(importlib.import_module(f"builders.{module}"), owner), name)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_builder_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a new builder computes it right, the fix can go."""
    fix, original = FAULTS[name]
    monkeypatch.setattr(builder_fixes, fix, original(builder_fixes))
    write_case(name, tmp_path / "source")
    found = difference(tmp_path / "source", build_float(tmp_path / "source", tmp_path / "work"))
    assert found > 1e-4


@pytest.mark.parametrize("name", NEW)
def test_an_export_is_planned_measured_and_rewound(
    name: str, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The size is the planned one; answers of a reused cache are those of a fresh one."""
    source = tmp_path / "source"
    write_case(name, source)
    text = ROOT / "docs/guides/models.md"
    done = run("model", source, tmp_path / "out", "--recipe", "int8", "--calibration", text, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # Qwen3.5's normalized keys multiply the rounding of small ones; its float graph is exact.
    is_exact = "Qwen3" not in name
    assert report["kl_mean"] < (0.002 if is_exact else 0.01)
    assert report["same_top1"] > (0.9 if is_exact else 0.8)
    card = json.loads((tmp_path / "out" / "report.json").read_text())
    assert card["golden"]["differing"] == 0
    bundle = load_bundle(tmp_path / "out")
    if name in WITH_STATE:
        assert bundle.manifest.state_bytes
        assert bundle.manifest.kv_bytes_per_token == 2 * 2 * 16 * 4  # of its one layer with attention
    else:
        check_sizes(bundle, source, name)
    if name == "FunctionGemma":
        check_calls(bundle.path)
    if name != "Ministral 3":  # has too short a context here; test_families has a longer one
        check_rewinds(bundle.path)


def check_calls(bundle: Path) -> None:
    """Written in FunctionGemma's notation, and ended by a call's response as by a turn's end."""
    decoder = Decoder(bundle, 1)
    try:
        names = {decoder._chat.tokenizer.id_to_token(number) for number in decoder._end_ids}
        assert {"<end_of_turn>", "<start_function_response>"} <= names
        form = decoder._chat.tool_format
        assert form is not None and (form.begin, form.quote) == ("<start_function_call>call:", "<escape>")
        room = {"type": "string", "maxLength": 9}
        schema: dict[str, object] = {"type": "object", "properties": {"room": room}}
        schema |= {"required": ["room"], "additionalProperties": False}
        shown = json.dumps({"name": "light", "description": "Turns a light on", "parameters": schema})
        prompt = Prompt((Turn("user", (Text("Light!"),)),), tools=(Tool("light", shown, json.dumps(schema)),))
        rule = CallRule(("light",), most=2, or_text=False)
        for seed in range(4):
            asked = Generate(prompt, 96, Sampling(temperature=1.5, seed=seed), calls=rule)
            output = decoder.generate(asked)
            assert output.text == "" and output.finish_reason == "stop"
            assert {call.name for call in output.calls} == {"light"}
            assert all(len(json.loads(call.arguments)["room"]) <= 9 for call in output.calls)
    finally:
        decoder.close()


def check_sizes(bundle: Bundle, source: Path, name: str) -> None:
    shape = read_shape(json.loads((source / "config.json").read_text()))
    assert bundle.manifest.architecture == shape.architecture
    assert bundle.manifest.kv_bytes_per_token == shape.kv_bytes_per_token
    assert bundle.manifest.context_length == shape.context_length
    planned = footprint(shape, *formats_of(find_recipe("int8"))).weight_bytes
    if name == "Phi-4-mini":  # has its position tables in the graph's own file
        assert shape.short_context == 512
    else:
        assert (bundle.path / "model.onnx.data").stat().st_size == pytest.approx(planned, rel=0.05)
