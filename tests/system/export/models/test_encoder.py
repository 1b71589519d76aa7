"""Encoders by torch's exporter and through optimum's own environment, and how pooling is read."""

from __future__ import annotations

import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.models.encoder import link_checkpoint, read_pooling

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError
from tests.support.export.tiny_encoders import PROMPTS


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._file,)


def _checkpoint(folder: Path, files: dict[str, Any], *, make: bool = False) -> Path:
    if make:
        folder.mkdir()
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


CONFIG = {"hidden_size": 384, "max_position_embeddings": 512, "model_type": "bert"}
MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]
MEAN = {"word_embedding_dimension": 384, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def test_a_plain_encoder_gets_the_normalized_mean(tmp_path: Path) -> None:
    section, tokens = read_pooling(_checkpoint(tmp_path, {"config.json": CONFIG}))
    assert (section.dimension, section.pooling, section.normalize, tokens) == (384, "mean", True, 512)


def test_sentence_transformers_files_are_followed(tmp_path: Path) -> None:
    files = {
        "config.json": CONFIG,
        "modules.json": MODULES,
        "1_Pooling/config.json": {**MEAN, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 256},
    }
    section, tokens = read_pooling(_checkpoint(tmp_path, files))
    assert (section.pooling, section.normalize, tokens) == ("cls", False, 256)
    normalizing = [*MODULES, {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]
    section, _ = read_pooling(_checkpoint(tmp_path, {"modules.json": normalizing}))
    assert section.normalize


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_positions_of_roberta_and_its_like_begin_after_padding(tmp_path: Path, kind: str) -> None:
    config = {**CONFIG, "model_type": kind, "max_position_embeddings": 514}
    assert read_pooling(_checkpoint(tmp_path, {"config.json": config}))[1] == 512


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    files = {
        "config.json": CONFIG,
        "modules.json": MODULES,
        "1_Pooling/config.json": {**MEAN, "pooling_mode_max_tokens": True},
    }
    with pytest.raises(ExportError, match="pools its token vectors by mean_tokens and max_tokens"):
        read_pooling(_checkpoint(tmp_path, files))


def test_a_layer_after_pooling_is_refused(tmp_path: Path) -> None:
    modules = [*MODULES, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    files = {"config.json": CONFIG, "modules.json": modules, "1_Pooling/config.json": MEAN}
    with pytest.raises(ExportError, match="goes on with a Dense module after the transformer"):
        read_pooling(_checkpoint(tmp_path, files))


def test_optimum_gets_no_pickle(tmp_path: Path) -> None:
    """Its environment has an older transformers, which would run what a ``pytorch_model.bin`` says."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    source = _checkpoint(tmp_path / "source", {"config.json": CONFIG}, make=True)
    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"a.weight": shared, "b.weight": shared}, source / "pytorch_model.bin")
    (source / "training_args.bin").write_bytes(b"a pickle")
    (source / "older").mkdir()
    (source / "older/pytorch_model.bin").write_bytes(b"a pickle")
    lent = link_checkpoint(source, tmp_path / "lent")
    names = {path.name for path in lent.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer_config.json"}
    made = load_file(lent / "model.safetensors")
    assert {name: value.tolist() for name, value in made.items()} == {
        name: shared.tolist() for name in ("a.weight", "b.weight")
    }


def test_a_pickle_is_none_of_optimum_s_by_another_name(tmp_path: Path) -> None:
    """An index may call its files anything."""
    torch = pytest.importorskip("torch")

    source = _checkpoint(tmp_path / "source", {"config.json": CONFIG}, make=True)
    torch.save({"a.weight": torch.zeros(1)}, source / "part.dat")
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a.weight": "part.dat"}}')
    lent = link_checkpoint(source, tmp_path / "lent")
    names = {path.name for path in lent.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer_config.json"}


def test_safetensors_in_parts_are_lent_with_their_index(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path / "source", {"config.json": CONFIG}, make=True)
    (source / "part-1.safetensors").write_bytes(b"")
    index = source / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a.weight": "part-1.safetensors"}}')
    lent = link_checkpoint(source, tmp_path / "lent")
    assert (lent / index.name).readlink() == index
    assert (lent / "part-1.safetensors").exists()


def test_a_pickle_that_holds_more_than_weights_is_refused(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path / "source", {"config.json": CONFIG}, make=True)
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"a.weight": Runs(tmp_path / "ran")}))
    with pytest.raises(ExportError, match=r"pytorch_model\.bin holds more than weights, or is damaged"):
        link_checkpoint(source, tmp_path / "lent")
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_lent_as_they_are(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path / "source", {"config.json": CONFIG}, make=True)
    for name in ("model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"):
        (source / name).write_bytes(b"{}")
    (source / "pytorch_model.bin.index.json").unlink()
    lent = link_checkpoint(source, tmp_path / "lent")
    assert (lent / "model.safetensors").readlink() == source / "model.safetensors"
    assert not (lent / "pytorch_model.bin").exists()


def test_words_before_a_text_are_read(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: ", "none": ""}
    files = {"config.json": CONFIG, "config_sentence_transformers.json": {"prompts": prompts}}
    section, _ = read_pooling(_checkpoint(tmp_path, files))
    assert section.prompts == {"query": "query: ", "passage": "passage: "}


KINDS = {
    # kind: architecture, pooling, longest text, words before a text
    "bge": ("BertModel", "cls", 128, None),
    "e5": ("XLMRobertaModel", "mean", 128, PROMPTS),
    "modernbert": ("ModernBertModel", "mean", 256, None),
}


@pytest.mark.export
@pytest.mark.parametrize(
    ("recipe", "exporter"), [("int8", "torch"), ("float", "torch"), ("int8", "optimum"), ("float", "optimum")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_encoder_exports(
    kind: str,
    recipe: str,
    exporter: str,
    encoders: Path,
    tmp_path: Path,
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run("encoder", encoders / kind, tmp_path / "out", "--recipe", recipe, "--exporter", exporter)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "out")
    manifest = bundle.manifest
    assert manifest.encoder is not None
    assert manifest.quantization is not None
    architecture, pooling, tokens, prompts = KINDS[kind]
    assert manifest.architecture == architecture
    assert (manifest.encoder.pooling, manifest.context_length) == (pooling, tokens)
    assert manifest.encoder.prompts == prompts
    assert manifest.encoder.normalize
    assert [group.bits for group in manifest.quantization.groups] == [8 if recipe == "int8" else 32]
    assert manifest.name == f"{kind}-{recipe}"

    report = json.loads((bundle.path / "report.json").read_text())
    cosine, ranking = report["cosine_to_float"], report["rank_agreement"]
    assert 0.9 < cosine["lowest"] <= cosine["mean"] <= 1
    assert 0.9 < ranking["spearman"] <= 1
    if recipe == "float":
        assert cosine["lowest"] >= 0.9999
        assert ranking["nearest"] > 0.9
    evaluated = run("evaluate", bundle.path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout.splitlines()[-1])["rank_agreement"] == ranking
    assert "same ranking" in evaluated.stdout


@pytest.mark.export
def test_an_encoder_becomes_a_bundle_with_the_same_bytes_each_time(
    tiny: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name in ("one", "two"):
        done = run("encoder", tiny / "bert", tmp_path / name, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["dimension"] == 32
    one, two = load_bundle(tmp_path / "one"), load_bundle(tmp_path / "two")
    assert one.digest == two.digest
    assert one.manifest.kind == "encoder"
    assert one.manifest.context_length == 64
    report = json.loads((one.path / "report.json").read_text())
    assert report["cosine_to_float"]["lowest"] > 0.9
    tokenizer = json.loads((one.path / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
