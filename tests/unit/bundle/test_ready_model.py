"""Ready folders: what is taken, what the manifest says, and hostile ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import Source
from edgeslm.bundle.ready_model import amend, check_names, judge
from edgeslm.errors import BundleError
from tests.support.onnx_bytes import (
    FLOAT16,
    INT8,
    attribute,
    cache_inputs,
    graph,
    model,
    node,
    settings,
    tensor,
    write_ready,
)


def write_graph(
    folder: Path, layers: int = 2, kind: int = 1, location: str | None = None, end: int = 64
) -> None:
    tensors = (tensor(location, 0, end),) if location is not None else ()
    (folder / "model.onnx").write_bytes(model(graph(cache_inputs(layers, kind), tensors=tensors)))


def test_a_folder_that_can_be_served(tmp_path: Path) -> None:
    folder = write_ready(tmp_path / "phi")
    for name in ("README.md", "configuration_phi3.py", "config.json", "model.sig"):
        (folder / name).write_text("{}")
    (folder / "more").mkdir()
    ready = judge(folder)
    assert set(ready.files) == {
        *("genai_config.json", "tokenizer.json", "tokenizer_config.json", "config.json"),
        *("model.onnx", "model.onnx.data"),
    }
    assert ready.left_out == ("README.md", "configuration_phi3.py", "model.sig")
    assert (ready.architecture, ready.context_length) == ("Phi3ForCausalLM", 512)
    assert ready.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    fields = ready.manifest_fields(Source(id="maker/Phi-3-mini-onnx", licence="mit"), "2025-03-01T12:00:00Z")
    assert fields["name"] == "phi-3-mini-onnx-int4"
    assert fields["quantization"]["groups"] == [{"group": "*", "bits": 4, "group_size": 32}]
    assert ready.report()["formats"] == {"4 bits, groups of 32": 2}


@pytest.mark.parametrize(("kind", "bytes_each"), [(FLOAT16, 2), (INT8, 1)])
def test_the_type_of_the_cache(kind: int, bytes_each: int, tmp_path: Path) -> None:
    folder = write_ready(tmp_path / "phi")
    write_graph(folder, kind=kind)
    ready = judge(folder)
    assert ready.cache_bytes == bytes_each
    assert ready.form == "float"
    assert any("bits a number" in line for line in ready.lacks) == (bytes_each > 1)


def test_a_windowed_cache_is_made_a_full_one(tmp_path: Path) -> None:
    folder = write_ready(tmp_path / "phi")
    windowed = node("GroupQueryAttention", attribute("sliding_window_cache", 1))
    (folder / "model.onnx").write_bytes(model(graph(cache_inputs(2), nodes=(windowed,))))
    config = settings()
    config["model"]["decoder"]["sliding_window"] = {"window_size": 64, "layers": [0]}
    (folder / "genai_config.json").write_text(json.dumps(config))
    ready = judge(folder)
    assert ready.changes
    amend(folder, ready)
    assert not judge(folder).windowed
    assert "sliding_window" not in (folder / "genai_config.json").read_text()


def test_a_tokenizer_gets_a_class_that_the_runtime_knows(tmp_path: Path) -> None:
    folder = write_ready(tmp_path / "qwen")
    file = folder / "tokenizer_config.json"
    before = json.loads(file.read_bytes())
    assert judge(folder).knows_tokenizer, "a file without a class"
    file.write_text(json.dumps({**before, "tokenizer_class": "Qwen3_5Tokenizer"}))
    ready = judge(folder)
    assert ready.changes == ["the tokenizer has a class that the runtime knows"]
    amend(folder, ready)
    assert json.loads(file.read_bytes()) == {**before, "tokenizer_class": "PreTrainedTokenizerFast"}
    assert judge(folder).knows_tokenizer


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2TokenizerFast", "TokenizersBackend"])
def test_a_class_that_the_runtime_knows_is_kept(name: str, tmp_path: Path) -> None:
    folder = write_ready(tmp_path / "qwen")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "tokenizer_class": name}))
    assert not judge(folder).changes


def no(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def link(name: str, target: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def pipe(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def sparse(name: str, size: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        with (folder / name).open("wb") as stream:
            stream.truncate(size)

    return change


def configured(**changes: object) -> Callable[[Path], object]:
    return write("genai_config.json", json.dumps(settings(**changes)))


def decoder(**changes: object) -> Callable[[Path], object]:
    return configured(decoder={**settings()["model"]["decoder"], **changes})


def weights_in_library(folder: Path) -> None:
    (folder / "w.so").write_bytes(bytes(64))
    write_graph(folder, location="w.so")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (no("genai_config.json"), "has no genai_config.json"),
    "no tokenizer": (no("tokenizer.json"), "has no tokenizer.json"),
    "no template": (write("tokenizer_config.json", "{}"), "has no chat template"),
    "several templates": (write("tokenizer_config.json", '{"chat_template": []}'), "has no chat template"),
    "no settings": (write("tokenizer_config.json", "{"), "tokenizer_config.json: not JSON"),
    "settings of nests": (write("tokenizer_config.json", "[" * 100_000), "not JSON"),
    "no JSON": (write("genai_config.json", "{"), "not JSON"),
    "a list": (write("genai_config.json", "[]"), "is a list, where an object belongs"),
    "twice": (write("genai_config.json", '{"model": {}, "model": {}}'), "twice"),
    "code": (configured(custom_ops_library="evil.so"), "custom_ops_library.* is not allowed"),
    "a path": (decoder(filename="../model.onnx"), "names no .onnx file"),
    "another type": (configured(type="whisper"), "'whisper', which isn't served"),
    "no type": (configured(type=None), "model.type is not a plain word"),
    "no graph": (configured(decoder={}), "names no graph"),
    "cuda": (
        decoder(session_options={"provider_options": [{"cuda": {}}]}),
        "built for CUDA; take the folder for the CPU",
    ),
    "no context": (configured(context_length=0), "0 as context_length"),
    "half a context": (configured(context_length=0.5), "0.5 as context_length"),
    "huge context": (configured(context_length=2**30), "more than any model has"),
    "other layers": (decoder(num_hidden_layers=2**30), "no input past_key_values.2.key"),
    "no heads": (decoder(num_key_value_heads=-1), "-1 as num_key_value_heads"),
    "outside": (lambda folder: write_graph(folder, location="../secret"), "leads out of the folder"),
    "absolute": (lambda folder: write_graph(folder, location="/etc/passwd"), "leads out of the folder"),
    "nameless": (lambda folder: write_graph(folder, location=""), "leads out of the folder"),
    "missing weights": (lambda folder: write_graph(folder, location="more.data"), "'more.data' is missing"),
    "short weights": (lambda folder: write_graph(folder, location="model.onnx.data", end=65), "wants 65"),
    "weights in a library": (weights_in_library, "'w.so' is not a file of a bundle"),
    "two cache types": (
        lambda folder: (folder / "model.onnx").write_bytes(
            model(graph({**cache_inputs(2), "past_key_values.1.key": FLOAT16}))
        ),
        "unknown or mixed type",
    ),
    "no cache": (lambda folder: write_graph(folder, layers=1), "no input past_key_values.1.key"),
    "a link": (link("tokenizer.json", "/etc/passwd"), "a link to another place"),
    "a link to nowhere": (link("model.onnx.data", "nowhere"), "a link to another place"),
    "a linked config": (link("genai_config.json", "/etc/passwd"), "a link to another place"),
    "huge tokenizer": (sparse("tokenizer.json", 10**9), "may have 128000000"),
    "huge config": (sparse("genai_config.json", 10**9), "larger than the"),
    "huge settings": (sparse("tokenizer_config.json", 10**9), "may have 16000000"),
    "a pipe": (pipe("genai_config.json"), "genai_config.json: not a file"),
    "a bundle": (write("manifest.json", "{}"), "a bundle already"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_gets_a_clear_error(case: str, tmp_path: Path) -> None:
    change, why = HOSTILE[case]
    folder = write_ready(tmp_path / "phi")
    change(folder)
    with pytest.raises(BundleError, match=why) as caught:
        judge(folder)
    assert str(tmp_path) in str(caught.value)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    """From a snapshot to the blobs of the same model only."""
    folder = write_ready(tmp_path / "models--a--b" / "snapshots" / "abc" / "cpu")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("../../../blobs", file.name))
    assert judge(folder).graph == "model.onnx"
    (tmp_path / "secret").write_text("{}")
    link("tokenizer.json", str(tmp_path / "secret"))(folder)
    with pytest.raises(BundleError, match="a link to another place"):
        judge(folder)


def test_blobs_that_are_elsewhere_are_not_the_hubs_cache(tmp_path: Path) -> None:
    folder = write_ready(tmp_path / "unpacked" / "snapshots" / "abc")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "tokenizer.json").rename(outside / "tokenizer.json")
    (tmp_path / "unpacked" / "blobs").symlink_to(outside)
    (folder / "tokenizer.json").symlink_to("../../blobs/tokenizer.json")
    with pytest.raises(BundleError, match="a link to another place"):
        judge(folder)


def test_folders_below_are_named_cpu_first(tmp_path: Path) -> None:
    names = ["README.md", "cuda/genai_config.json", "a/cpu-int4/genai_config.json"]
    with pytest.raises(BundleError, match=r"name one of its folders: a/cpu-int4, cuda$"):
        check_names(names, "maker/phi")
    for name in names[1:]:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(BundleError, match=r"a/cpu-int4, cuda$"):
        judge(tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        judge(tmp_path / "none")
