"""What a bundle may tell the runtime, and that nothing else reaches it."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.genai_config import KEYS, check_genai_config
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.errors import BundleError

FILES = ("model.onnx", "genai_config.json", "tokenizer.json")
PLAIN: dict[str, Any] = {
    "model": {
        "bos_token_id": None,
        "eos_token_id": [2, 0],
        "context_length": 8192,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "inputs": {"input_ids": "input_ids", "past_key_names": "past_key_values.%d.key"},
            "outputs": {"logits": "logits"},
            "num_hidden_layers": 30,
            "sliding_window": {"window_size": 512, "slide_inputs": False, "layers": [0, 2]},
        },
        "type": "llama",
        "vocab_size": 49152,
    },
    "search": {"do_sample": False, "top_p": 1.0},
}


def put(path: str, value: Any) -> bytes:
    told: Any = copy.deepcopy(PLAIN)
    here, *rest = told, *path.split(".")
    for key in rest[:-1]:
        here = here.setdefault(key, {})
    here[rest[-1]] = value
    return json.dumps(told).encode()


def fault(raw: bytes) -> str:
    with pytest.raises(BundleError) as error:
        check_genai_config(raw, FILES, "m")
    assert "\n" not in str(error.value) and str(error.value).startswith("m: ")
    return str(error.value)


def test_what_the_model_builder_writes_passes() -> None:
    check_genai_config(json.dumps(PLAIN).encode(), FILES, "m")
    check_genai_config(put("model.decoder.session_options.provider_options", [{"cuda": {}}]), FILES, "m")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.decoder.session_options.custom_ops_library", "model.onnx"),
        ("model.decoder.session_options.library_path", "x"),
        ("model.decoder.session_options.session.model_external_initializers_file_folder_path", "/"),
        ("model.decoder.session_options.enable_profiling", "trace"),
        ("model.decoder.pipeline", []),
        ("model.draft", {"filename": "model.onnx"}),
        ("model.vision", {"filename": "model.onnx"}),
        ("engine", {}),
        ("model.decoder.run_options", {}),
        ("x\n\x1b[2J", 1),
    ],
)
def test_a_key_that_is_not_known_to_be_harmless_is_refused(path: str, value: Any) -> None:
    assert "is not allowed" in fault(put(path, value))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("model.decoder.filename", "../model.onnx", "names no .onnx file of the manifest"),
        ("model.decoder.filename", "/model.onnx", "names no .onnx file"),
        ("model.decoder.filename", "tokenizer.json", "names no .onnx file"),
        ("model.decoder.filename", ["model.onnx"], "names no .onnx file"),
        ("model.decoder.inputs.past_key_names", "%s%n", "is not the name of a tensor"),
        ("model.decoder.inputs.past_key_names", "a.%d.%d", "is not the name of a tensor"),
        ("model.decoder.session_options.log_id", "../x", "is not a plain word"),
        ("model.decoder.session_options.log_id", '", "custom_ops_library": "x', "is not a plain word"),
        (
            "model.decoder.session_options.provider_options",
            [{"OpenVINO": {}}],
            "names the provider 'OpenVINO'",
        ),
        (
            "model.decoder.session_options.provider_options",
            [{"cuda": {"user_compute_stream": "1"}}],
            "has the option 'user_compute_stream' of the provider cuda, which is not allowed",
        ),
        ("model.decoder.session_options.provider_options", {"cuda": {}}, "is not a list of providers"),
        ("model.context_length", "8192", "is not a number"),
        ("model.eos_token_id", [[2]], "is not a number"),
        ("search", [], "search is a list, where an object belongs"),
    ],
)
def test_a_value_is_of_its_kind(path: str, value: Any, sentence: str) -> None:
    assert sentence in fault(put(path, value))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe{\x00}\x00",
        b'{"search": {}, "search": {}}',
        b'{"search": {"top_p": NaN}}',
        b'{"search": {"top_p": 1e999}}',
        b'{"search": {"top_k": 1' + b"0" * 400 + b"}}",
        b"[" * 100_000,
    ],
)
def test_what_the_two_parsers_could_read_differently_is_refused(raw: bytes) -> None:
    fault(raw)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_whatever_stands_there_is_taken_or_refused_with_a_sentence(told: Any) -> None:
    raw = json.dumps(told).encode()
    try:
        check_genai_config(raw, FILES, "m")
    except BundleError as error:
        assert str(error).startswith("m: ")
    else:
        assert set(told) <= set(KEYS)


@pytest.mark.parametrize("library", ["ops.so", "ops.onnx"])
def test_a_bundle_that_names_a_library_is_refused_before_the_runtime_loads(
    starter: Path, tmp_path: Path, library: str
) -> None:
    bundle = shutil.copytree(starter / "smollm2-135m-int4", tmp_path / "evil")
    (bundle / library).write_bytes(b"\x7fELF")
    config = bundle / "genai_config.json"
    told = json.loads(config.read_text())
    told["model"]["decoder"]["session_options"]["custom_ops_library"] = library
    config.write_text(json.dumps(told))
    manifest = json.loads((bundle / "manifest.json").read_text())
    others = [one for one in manifest["files"] if one["path"] != config.name]
    changed = [
        {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in (library, config.name)
        for data in [(bundle / name).read_bytes()]
    ]
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "files": [*others, *changed]}))
    wanted = (
        "ops.so' is not a file of a bundle" if library == "ops.so" else "custom_ops_library' is not allowed"
    )
    with pytest.raises(BundleError, match=wanted):
        Decoder(bundle, 1)
