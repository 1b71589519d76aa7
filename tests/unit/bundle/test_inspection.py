from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.inspection import describe, render
from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import BundleError


def write(folder: Path, report: str | None = None, **changes: Any) -> Path:
    files = {"model.onnx": b"0" * 1_000_000}
    if report is not None:
        files["report.json"] = report.encode(errors="surrogatepass")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "format": 1,
        "name": "tiny",
        "kind": "decoder",
        "architecture": "LlamaForCausalLM",
        "source": {"id": "here", "revision": "r1", "licence": "apache-2.0"},
        "files": [
            {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ],
        "quantization": {"recipe": "int4", "groups": [{"group": "*", "bits": 4, "group_size": 32}]},
        "context_length": 1000,
        "kv_bytes_per_token": 1000,
        "runtime": {"onnxruntime": "1.32.0"},
        "created": "2026-01-01T00:00:00Z",
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_describes_the_memory_up_to_the_context(tmp_path: Path) -> None:
    described = describe(load_bundle(write(tmp_path)))
    assert described["memory_bytes"] == {"512": 102_012_000, "1000": 102_500_000}
    assert described["report"] is None
    json.dumps(described)


def test_renders_one_fact_a_line(tmp_path: Path) -> None:
    report = json.dumps({"kl": 0.3, "accuracy": {"spam": 0.97}, "loads": True, "note": "fine"})
    text = render(describe(load_bundle(write(tmp_path, report))))
    for line in (
        "kind          decoder (LlamaForCausalLM)",
        "source        here r1",
        "licence       apache-2.0",
        "size          1.0 MB in 2 files",
        "quantization  int4 (* 4 bits, group 32)",
        "context       1000 tokens, 1000 bytes each",
        "memory        about 102 MB with 1000 tokens",
        "made for      onnxruntime 1.32.0",
        "report card",
        "  accuracy",
        "    spam                    0.97",
        "  loads                   true",
        "  note                    fine",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("group", "shown"),
    [
        ({"bits": 4, "group_size": 32}, "4 bits, group 32"),
        ({"bits": 8, "group_size": 0}, "8 bits, by row"),
        ({"bits": 32, "group_size": 0}, "32 bits"),
    ],
)
def test_how_weights_are_stored_is_told(group: dict[str, int], shown: str, tmp_path: Path) -> None:
    quantization = {"recipe": "r", "groups": [{"group": "*", **group}]}
    text = render(describe(load_bundle(write(tmp_path, quantization=quantization))))
    assert f"quantization  r (* {shown})" in text.splitlines()


@pytest.mark.parametrize(
    ("graphs", "way"),
    [
        ({"generate": "model.onnx", "score": "model.onnx"}, "in one pass, once it is prepared"),
        ({"generate": "model.onnx"}, "branch by branch"),
    ],
)
def test_how_labels_that_begin_alike_are_scored_is_told(
    graphs: dict[str, str], way: str, tmp_path: Path
) -> None:
    text = render(describe(load_bundle(write(tmp_path, graphs=graphs))))
    assert f"labels alike  {way}" in text.splitlines()


def test_the_likeness_to_the_float_model_is_told_in_words(tmp_path: Path) -> None:
    card = {
        "formats": {"4 bits, groups of 32": 118},
        "method": "GPTQ",
        "placing": {"measure": "Fisher information", "builds": 3},
        "calibration": "WikiText-2, 16,384 tokens at most",
        "source_tensors": {"Q4_1": 210, "F32": 61},
        "source_was_quantized": True,
        "taken_over_without_loss": 12,
        "fidelity": {
            "text": "WikiText-2",
            "tokens": 4096,
            "kl_mean": 0.08012,
            "kl_p999": 2.1,
            "same_top1": 0.857,
            "perplexity": 20.47,
            "perplexity_ratio": 1.0359,
            "perplexity_ratio_se": 0.0031,
        },
        "accuracy": 0.964,
        "interval": [0.9438, 0.9771],
    }
    text = render(describe(load_bundle(write(tmp_path, json.dumps(card)))))
    assert text.partition("report card\n")[2].splitlines() == [
        "  against the float model on 4,096 tokens of WikiText-2",
        "                          divergence 0.0801 nats a token, over 2.10 in the worst 0.1 %",
        "                          same likeliest token 85.7%",
        "                          perplexity 20.47, 1.0359 ± 0.0031 times the float model's",
        "  matrices                118 with 4 bits, groups of 32",
        "  quantized by            GPTQ",
        "  bits placed by          Fisher information; bundles built: 3",
        "  calibrated on           WikiText-2, 16,384 tokens at most",
        "  tensors of the source   210 of Q4_1, 61 of F32",
        "                          quantized already; 12 matrices were taken over without loss",
        "  accuracy                0.964, 95 % interval 0.944 to 0.977",
    ]


@pytest.mark.parametrize("fidelity", [{}, [], "x", {"tokens": "many"}, None])
def test_a_likeness_of_another_shape_is_shown_as_it_stands(tmp_path: Path, fidelity: object) -> None:
    text = render(describe(load_bundle(write(tmp_path, json.dumps({"fidelity": fidelity})))))
    assert "\n  fidelity" in text


def test_a_head_shows_its_labels_and_no_memory(tmp_path: Path) -> None:
    head = {"encoder": "sha256:0", "weights": "model.onnx"}
    learned = {"task": "topic", "kind": "classify", "labels": ["a", "b"], "rows": 200}
    bundle = load_bundle(write(tmp_path, kind="head", head=head, learned=learned, context_length=0))
    described = describe(bundle)
    assert "memory_bytes" not in described
    assert "labels        a, b" in render(described).splitlines()
    assert "learned from  200 rows" in render(described).splitlines()
    assert "encoder       sha256:0" in render(described).splitlines()


def test_what_is_unknown_is_said(tmp_path: Path) -> None:
    text = render(describe(load_bundle(write(tmp_path, source={"id": ""}, quantization={"recipe": "int8"}))))
    assert "source        unknown" in text
    assert "licence       unknown" in text
    assert "quantization  int8\n" in text


@pytest.mark.parametrize("report", ["{", "[1]", "null", "\ud800", "[" * 100_000])
def test_a_report_that_is_no_object(tmp_path: Path, report: str) -> None:
    bundle = load_bundle(write(tmp_path, report))
    with pytest.raises(BundleError, match=r"report\.json: not"):
        describe(bundle)
        describe(load_bundle(tmp_path))


def test_words_that_an_encoder_wants_before_a_text_are_shown(tmp_path: Path) -> None:
    encoder = {"dimension": 32, "prompts": {"query": "query: ", "passage": "passage: "}}
    described = describe(load_bundle(write(tmp_path, kind="encoder", encoder=encoder)))
    assert "before texts  query 'query: ', passage 'passage: '" in render(described)
