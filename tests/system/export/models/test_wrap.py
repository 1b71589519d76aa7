"""``edgeslm-export wrap`` on folders of onnxruntime-genai's builder: six families, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.bundle.ready_model import ARCHITECTURES
from edgeslm.engine.calls import Generate, Guide, Prompt, Score, Text, Turn
from edgeslm.engine.prepack.golden import load_golden
from edgeslm.engine.worker.decoder import Decoder
from tests.support.export.ready_models import READY
from tests.support.model_hub import REVISION, ModelHub

pytestmark = pytest.mark.export

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("name", READY)
def test_a_folder_of_the_builder_becomes_a_bundle_that_serves(
    name: str, ready: Path, tmp_path: Path, run: Run
) -> None:
    done = run("wrap", ready / name, tmp_path / "out", "--json", "--release", "3")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["golden_answers"] == 8
    assert said["labels_apart"] < 1e-4
    assert said["left_out"] == ["README.md", "configuration_tiny.py"]

    bundle = load_bundle(tmp_path / "out", said["digest"])
    verify_bundle(bundle)
    manifest = bundle.manifest
    kind = json.loads((ready / name / "genai_config.json").read_text())["model"]["type"]
    assert manifest.architecture == ARCHITECTURES[kind]
    assert manifest.source.licence == "mit"
    assert manifest.release == 3
    assert manifest.kv_bytes_per_token == 2 * (6 if name == "gemma3" else 2) * 2 * 16 * 4
    assert manifest.quantization is not None
    assert {group.bits for group in manifest.quantization.groups} == {4}
    golden = load_golden(bundle)
    assert golden is not None and len(golden.answers) == 8

    decoder = Decoder(bundle.path, 1)
    try:
        prompt = Prompt((Turn("user", (Text("Is pump 7 hot?"),)),))
        first = decoder.generate(Generate(prompt, 8)).text
        assert decoder.generate(Generate(prompt, 8)).text == first  # after a rewind
        shares = decoder.score(Score(prompt, ("yes", "no", "not now"))).probabilities
        assert sum(shares) == pytest.approx(1)
    finally:
        decoder.close()


def test_a_tokenizer_of_an_unknown_class_serves_schemas(ready: Path, tmp_path: Path, run: Run) -> None:
    """The runtime raises "Unsupported tokenizer class" for the folder as it is."""
    folder = tmp_path / "ready"
    shutil.copytree(ready / "llama", folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "tokenizer_class": "Qwen3_5Tokenizer"}))
    done = run("wrap", folder, tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert "the tokenizer has a class that the runtime knows" in json.loads(done.stdout)["changed"]
    decoder = Decoder(tmp_path / "out", 1)
    try:
        prompt = Prompt((Turn("user", (Text("Is pump 7 hot?"),)),))
        guide = Guide("json_schema", '{"type": "object", "properties": {"hot": {"type": "boolean"}}}')
        assert decoder.generate(Generate(prompt, 8, guide=guide)).text.startswith("{")
    finally:
        decoder.close()


def test_wrap_needs_neither_torch_nor_transformers(ready: Path, tmp_path: Path, run: Run) -> None:
    """Importing one of them fails here, in the command and in its children."""
    blocked = tmp_path / "blocked"
    for name in ("torch", "transformers", "onnx", "onnx_ir"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not installed')\n")
    path = os.pathsep.join([str(blocked), *sys.path])
    done = run("wrap", ready / "llama", tmp_path / "out", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    load_bundle(tmp_path / "out")


def test_a_hub_id_with_a_subfolder(
    ready: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "hub" / "maker" / "tiny-onnx" / "cpu_and_mobile" / "cpu-int4"
    shutil.copytree(ready / "phi3", inside)
    shutil.copytree(ready / "phi3", inside.parent.parent / "cuda" / "cuda-int4")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with ModelHub(tmp_path / "hub") as hub:
        where = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        done = run("wrap", "maker/tiny-onnx", tmp_path / "out", **where)
        assert done.returncode == 1
        assert "name one of its folders: cpu_and_mobile/cpu-int4, cuda/cuda-int4" in done.stderr

        done = run("wrap", "maker/tiny-onnx:cpu_and_mobile/cpu-int4", tmp_path / "out", **where)
        assert done.returncode == 0, done.stderr
        assert not any("cuda" in path or path.endswith(".py") for path, _ in hub.requests)
    source = load_bundle(tmp_path / "out").manifest.source
    assert (source.id, source.revision, source.licence) == ("maker/tiny-onnx", REVISION, "mit")


def test_damaged_weights_are_found_by_running_the_model(ready: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(ready / "llama", folder)
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(b"\xff" * len(data))  # NaN
    done = run("wrap", folder, tmp_path / "out")
    assert done.returncode == 1
    assert "aren't finite" in done.stderr
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == [folder]
