"""Bad sources get one sentence before anything slow: here no library is loaded at all."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.sources.checkpoint import (
    DECODERS,
    GGUF_ARCHITECTURES,
    bundle_name,
    check_architecture,
    examine_local,
)

from edgeslm.bundle.model_shape import read_shape
from edgeslm.bundle.text_config import MINISTRAL, QWEN3_5
from edgeslm.errors import ExportError, ShapeError


def _safetensors(file: Path, *, cut: int = 0) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(24)
    file.write_bytes(data[: len(data) - cut])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete decoder checkpoint as far as files go."""
    path = tmp_path / "tiny-chat"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Card\n")
    _safetensors(path / "model.safetensors")
    return path


def test_a_complete_folder_is_taken(folder: Path) -> None:
    origin = examine_local(folder, "decoder")
    assert origin.architecture == "LlamaForCausalLM"
    assert origin.weights == 6
    assert origin.source.id == "tiny-chat"
    assert origin.source.licence == "apache-2.0"
    assert origin.source.revision.startswith("sha256:")
    assert origin.revised == ""


def _edit(name: str, value: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_remove("config.json"), "no config.json"),
        (_edit("config.json", "{"), "can't be read as JSON"),
        (_edit("config.json", "[]"), "not a JSON object"),
        (
            _edit("config.json", {"architectures": ["MambaForCausalLM"]}),
            "architecture MambaForCausalLM, which can't",
        ),
        (_edit("config.json", {}), "architecture of no name"),
        (_edit("config.json", {"architectures": ["BertModel"]}), "edgeslm-export encoder"),
        (
            _edit(
                "config.json",
                {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "awq"}},
            ),
            "already quantized by awq",
        ),
        (_remove("tokenizer.json"), "no tokenizer"),
        (_edit("tokenizer_config.json", {}), "no chat template"),
        (_remove("model.safetensors"), "no weights"),
        (lambda folder: _safetensors(folder / "model.safetensors", cut=1), "truncated or damaged"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 40),
            "truncated or damaged",
        ),
        (
            _edit("model.safetensors.index.json", {"weight_map": {"w": "model-1.safetensors"}}),
            "is missing, though",
        ),
        (_edit("model.safetensors.index.json", []), "not an index of weights"),
    ],
)
def test_a_bad_folder_gets_one_sentence(folder: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    spoil(folder)
    with pytest.raises(ExportError, match=sentence) as caught:
        examine_local(folder, "decoder")
    assert "\n" not in str(caught.value)


def test_an_encoder_needs_no_chat_template(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (folder / "tokenizer_config.json").unlink()
    assert examine_local(folder, "encoder").architecture == "BertModel"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ExportError, match=r"neither a checkpoint folder nor a \.gguf file"):
        examine_local(tmp_path / "model.bin", "decoder")


def _gguf(file: Path, settings: dict[str, str | int], tensors: int = 1) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    data = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(settings))
    for key, value in settings.items():
        data += text(key)
        data += struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
    for number in range(tensors):
        data += text(f"t{number}") + struct.pack("<IQIQ", 1, 8, 0, 0)
    file.write_bytes(data + bytes(-len(data) % 32) + bytes(32))
    return file


GOOD: dict[str, str | int] = {
    "general.architecture": "qwen2",
    "general.license": "mit",
    "tokenizer.ggml.tokens": 3,
    "tokenizer.chat_template": "x",
}


def test_a_complete_gguf_is_taken(tmp_path: Path) -> None:
    origin = examine_local(_gguf(tmp_path / "Tiny-Q4_K_M.gguf", GOOD), "decoder")
    assert origin.is_gguf
    assert origin.architecture == "Qwen2ForCausalLM"
    assert origin.source.licence == "mit"


@pytest.mark.parametrize(
    ("change", "tensors", "sentence"),
    [
        ({"general.architecture": "mamba"}, 1, "architecture 'mamba', which can't be exported"),
        ({"general.architecture": 7}, 1, "architecture 7"),
        ({"split.count": 2}, 1, "one part of several"),
        ({}, 0, "holds a vocabulary and no weights"),
        ({"tokenizer.ggml.tokens": 0}, 1, "has no tokenizer"),
        ({"tokenizer.chat_template": ""}, 1, "has no chat template"),
    ],
)
def test_a_bad_gguf_gets_one_sentence(
    tmp_path: Path, change: dict[str, str | int], tensors: int, sentence: str
) -> None:
    file = _gguf(tmp_path / "model.gguf", {**GOOD, **change}, tensors)
    with pytest.raises(ExportError, match=sentence) as caught:
        examine_local(file, "decoder")
    assert "\n" not in str(caught.value)


def test_a_gguf_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="encoders are exported from a checkpoint folder"):
        examine_local(_gguf(tmp_path / "model.gguf", GOOD), "encoder")


def test_the_architectures_are_ones_the_builder_knows() -> None:
    import importlib.util

    spec = importlib.util.find_spec("onnxruntime_genai")
    assert spec is not None and spec.origin is not None
    builder = (Path(spec.origin).parent / "models" / "builder.py").read_text()
    for architecture in set(DECODERS) - {MINISTRAL, QWEN3_5}:  # which it knows by other names
        assert f'"{architecture}"' in builder, architecture
    assert set(GGUF_ARCHITECTURES.values()) <= set(DECODERS)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct-int4"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct-int4"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct-int4"),
        ("model-f16.gguf", "model-int4"),
        ("...", "model-int4"),
    ],
)
def test_bundle_names_are_short_and_plain(source: str, name: str) -> None:
    assert bundle_name(source, "int4") == name


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architectures": ["Gemma4ForConditionalGeneration"]}, "its layers share caches"),
        ({"architectures": ["Gemma3nForConditionalGeneration"]}, "its layers share caches"),
        ({"architectures": ["Lfm2AudioForConditionalGeneration"]}, "answers in speech as well"),
        ({"architectures": ["Lfm2MoeForCausalLM"]}, "a mixture of experts"),
        ({"architectures": ["Qwen3NextForCausalLM"]}, "doesn't know its layers"),
        ({"architectures": ["OlmoForCausalLM"]}, "computes other logits"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "a mixture of experts"),
        ({"architectures": ["Qwen3_5MoeForConditionalGeneration"]}, "a mixture of experts"),
        ({"architectures": ["GptOssForCausalLM"]}, "a mixture of experts"),
        (
            {
                "architectures": ["GraniteMoeHybridForCausalLM"],
                "layer_types": ["mamba", "attention"],
                "num_local_experts": 0,
            },
            "take the model without -h",
        ),
        (
            {
                "architectures": ["GraniteMoeHybridForCausalLM"],
                "layer_types": ["attention"],
                "num_local_experts": 62,
            },
            "a mixture of experts",
        ),
        (
            {"architectures": ["GraniteMoeHybridForCausalLM"], "layer_types": ["attention"]},
            "no rotary positions",
        ),
    ],
)
def test_a_refused_architecture_gets_its_reason(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ExportError, match=why):
        check_architecture(config, "decoder", "a model")
    with pytest.raises(ShapeError, match=why):
        read_shape(config)
