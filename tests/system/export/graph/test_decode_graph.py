"""A graph of two: what it reads it computes as the recipe w8a8 does, what it writes by weights of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from edgeslm_export.graph.decode_graph import READS, WRITES, join, keep_part

from edgeslm.bundle.inspection import describe, render
from edgeslm.bundle.manifest import load_bundle
from edgeslm.bundle.performance import bundle_footprint
from edgeslm.engine.calls import Generate, Guide, Prompt, Score, Text, Turn
from edgeslm.engine.prepack.prepare import graph_of, prepare
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.prepared import CACHE, WEIGHTS, Prepared, find_prepared
from tests.support.export.tiny_models import SHAPE

pytestmark = pytest.mark.export
TOKENS = list(b"loosen the screw")
NEAR = 0.03
"""By which probabilities may differ that processors sum in another order for few rows
(``engine.worker.kv_cache``)."""
LABELS = ("loose", "lost", "cover", "covers", "screw")


def asked(text: str) -> Prompt:
    return Prompt((Turn("user", ("Sort: ", Text(text, cut=True))),))


def session(folder: Path, graph: Any) -> ort.InferenceSession:
    """Of a graph that isn't on disk, beside the weights of ``folder``."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def plain(folder: Path) -> Any:
    return onnx.load(folder / "model.onnx", load_external_data=False)


def part(folder: Path, name: str) -> Any:
    model = plain(folder)
    keep_part(model.graph, name)
    return model


def run(computed: ort.InferenceSession, tokens: list[int], past: list[Any] | None = None) -> list[Any]:
    """Logits of the last token and the cache."""
    size = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    names = [value.name for value in computed.get_inputs() if value.name.startswith("past")]
    cache = past or [np.zeros((1, SHAPE["num_key_value_heads"], 0, size), np.float32)] * len(names)
    feeds: dict[str, Any] = {
        "input_ids": np.array([tokens], np.int64),
        **dict(zip(names, cache, strict=True)),
    }
    feeds["attention_mask"] = np.ones((1, cache[0].shape[2] + len(tokens)), np.int64)
    logits, *cache = computed.run(None, feeds)
    return [logits[0, -1], *cache]


def test_many_tokens_are_computed_by_one_part_and_a_single_one_by_the_other(apart_base: Path) -> None:
    whole = session(apart_base, plain(apart_base))
    reads, writes = (session(apart_base, part(apart_base, name)) for name in (READS, WRITES))
    several = run(whole, TOKENS)
    for found, wanted in zip(several, run(reads, TOKENS), strict=True):
        assert np.allclose(found, wanted, atol=1e-4)
    single = run(whole, TOKENS[:1], several[1:])
    for found, wanted in zip(single, run(writes, TOKENS[:1], several[1:]), strict=True):
        assert np.allclose(found, wanted, atol=1e-4)
    assert not np.allclose(single[0], run(reads, TOKENS[:1], several[1:])[0], atol=1e-4)


def test_the_part_that_reads_is_the_graph_of_w8a8(apart_base: Path, by_row_base: Path) -> None:
    reads, other = part(apart_base, READS).graph, plain(by_row_base).graph
    read = {name for node in other.node for name in node.input} | {value.name for value in other.output}
    wanted = [node for node in other.node if read & set(node.output)]  # one constant of it nothing reads
    assert sorted(map(str, reads.node)) == sorted(map(str, wanted))
    assert sorted(map(str, reads.initializer)) == sorted(map(str, other.initializer))
    assert list(reads.output) == list(other.output)
    data = (by_row_base / "model.onnx.data").read_bytes()
    assert (apart_base / "model.onnx.data").read_bytes().startswith(data)
    assert (apart_base / "model_lora.onnx").read_bytes() == (by_row_base / "model_lora.onnx").read_bytes()


def test_weights_that_both_parts_have_lie_there_once(apart_base: Path) -> None:
    places: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in (READS, WRITES):
        tensors = [tensor for tensor in part(apart_base, name).graph.initializer if tensor.external_data]
        places[name] = {
            tensor.name: tuple(entry.value for entry in tensor.external_data) for tensor in tensors
        }
    both = places[READS].keys() & places[WRITES].keys()
    assert any("lm_head" in name for name in both)
    assert all(places[READS][name] == places[WRITES][name] for name in both)
    assert set(places[READS].values()).isdisjoint(
        places[WRITES][name] for name in places[WRITES].keys() - both
    )


def test_other_recipes_say_nothing_of_it(by_row_base: Path) -> None:
    """So that earlier versions read their bundles, and the same source still gives the same bytes."""
    assert "written" not in (by_row_base / "manifest.json").read_text()


def test_a_graph_that_is_not_joined_stays_as_it_is(by_row_base: Path) -> None:
    assert part(by_row_base, WRITES) == plain(by_row_base)


def test_models_with_other_inputs_are_not_joined(by_row_base: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        shutil.copytree(by_row_base, tmp_path / name)
    model = plain(tmp_path / "other")
    del model.graph.input[-1]
    onnx.save(model, tmp_path / "other" / "model.onnx")
    with pytest.raises(ValueError, match="not the same inputs"):
        join(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "model.onnx.data").read_bytes() == (
        by_row_base / "model.onnx.data"
    ).read_bytes()


def test_a_bundle_says_what_it_writes_by(apart_base: Path) -> None:
    bundle = load_bundle(apart_base)
    assert bundle.manifest.quantization is not None
    written = bundle.manifest.quantization.written
    assert written is not None
    groups = {group.group: (group.bits, group.group_size) for group in written}
    assert groups["*"] == (4, 64)
    report = json.loads((apart_base / "report.json").read_text())
    assert report["fidelity"]["kl_mean"] < report["written"]["fidelity"]["kl_mean"]
    assert "written by    " in render(describe(bundle))
    foot = bundle_footprint(bundle)
    assert foot is not None
    assert foot.token_bytes < foot.prompt_bytes < foot.weight_bytes


def test_a_file_of_weights_may_have_several_names(apart_base: Path, tmp_path: Path) -> None:
    """Of weights within a branch the runtime refuses that."""
    shutil.copytree(apart_base, tmp_path / "bundle")
    os.link(tmp_path / "bundle" / "model.onnx.data", tmp_path / "other name")
    decoder = Decoder(tmp_path / "bundle", 1)
    assert decoder.generate(Generate(asked("the screw"), 4)).text
    decoder.close()


# -- as it is used ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(apart_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    state, bundle = tmp_path_factory.mktemp("state"), load_bundle(apart_base)
    asyncio.run(prepare(bundle, "model.onnx", state))
    found = find_prepared(bundle, "model.onnx", state / CACHE)
    assert found is not None
    return found


@pytest.fixture
def decoders(apart_base: Path, by_row_base: Path, prepared: Prepared) -> Iterator[dict[str, Decoder]]:
    made = {
        "apart": Decoder(apart_base, 1),
        "prepared": Decoder(apart_base, 1, prepared=prepared),
        "w8a8": Decoder(by_row_base, 1),
    }
    yield made
    for decoder in made.values():
        decoder.close()


def test_a_prepared_file_may_have_several_names_too(
    apart_base: Path, prepared: Prepared, tmp_path: Path
) -> None:
    folder = shutil.copytree(prepared.graph.parent, tmp_path / "prepared")
    os.link(folder / WEIGHTS, tmp_path / "other name")
    decoder = Decoder(apart_base, 1, prepared=Prepared(folder / prepared.graph.name, 1))
    assert decoder.prepared
    decoder.close()


def test_what_is_prepared_says_the_same(decoders: dict[str, Decoder]) -> None:
    assert decoders["prepared"].prepared
    for text in ("the screw", "a cover that is loose, and another one"):
        call = Generate(asked(text), 12)
        assert decoders["prepared"].generate(call).text == decoders["apart"].generate(call).text


def test_a_prompt_of_any_length_is_read_and_not_written(
    decoders: dict[str, Decoder], apart_base: Path, prepared: Prepared
) -> None:
    """Also where the runtime would cut it so that one token is left."""
    quick = Decoder(apart_base, 1, prepared=replace(prepared, prompt_seconds={1: 0.01}))
    try:
        for length in range(70, 140):
            call = Score(asked("a" * length), ("o", "p"))
            wanted = decoders["w8a8"].score(call).probabilities
            assert quick.score(call).probabilities == pytest.approx(wanted, abs=NEAR)
            quick.forget()
    finally:
        quick.close()


def test_fields_are_not_speculated_on(decoders: dict[str, Decoder]) -> None:
    """A token costs half of two; quotes, where most of what is proposed is right, are."""
    fields = Guide("json_schema", '{"type": "object"}')
    quote = Guide("regex", "(a b )+")
    for name, wanted in (("apart", (0, 8)), ("w8a8", (8, 8))):
        keys = [
            decoders[name]._key_of(Generate(asked("a"), 4, guide=guide), 100) for guide in (fields, quote)
        ]
        assert tuple(key.drafts for key in keys) == wanted


@pytest.mark.parametrize("adapters", [False, True])
def test_either_graph_can_be_prepared(apart_base: Path, tmp_path: Path, adapters: bool) -> None:
    """The golden answers are those of the graph without adapters, of which the last token is written."""
    bundle = load_bundle(apart_base)
    index = asyncio.run(prepare(bundle, graph_of(bundle, adapters=adapters), tmp_path))
    assert len(index.divergences) == 8
    assert max(index.divergences) < 0.01


def test_labels_are_read_and_not_written(decoders: dict[str, Decoder], prepared: Prepared) -> None:
    """One after the other, and in one pass: as by w8a8, and with what was prepared by the same file."""
    assert prepared.score is not None
    call = Score(asked("the cover came loose"), LABELS)
    wanted = decoders["w8a8"].score(call).probabilities
    assert decoders["apart"].score(call).probabilities == pytest.approx(wanted, abs=NEAR)
    assert decoders["prepared"].score(call).probabilities == pytest.approx(wanted, abs=NEAR)
