"""An int8 KV cache on tiny models of each family: nearly the same numbers in a quarter of the memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from edgeslm_export.evaluate.cache_ranges import find_ranges
from edgeslm_export.graph.decode_graph import READS, WRITES, join, keep_part
from edgeslm_export.graph.int8_cache import RANGES, cache_inputs, cache_item_bytes, layers_of, quantize_cache
from edgeslm_export.models import decoder
from edgeslm_export.models.decoder import ExportOrder, export_model
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import examine_local

from edgeslm.bundle.manifest import load_bundle
from edgeslm.bundle.performance import bundle_footprint
from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.prepared import Prepared
from tests.support.export.fixtures import Cases
from tests.support.export.tiny_adapters import CASES
from tests.support.export.tiny_models import SHAPE

pytestmark = pytest.mark.export
HEADS = SHAPE["num_key_value_heads"]
SIZE = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
TOKENS = list(b"loosen the screw, then lift the cover")
OTHERS = list(b"the pump in hall 4 is hot; close the valve and wait")
CONVERTED = [name for name in CASES if name != "gemma2"]
"""The cache of Gemma-2's layers is a sliding window here; an export makes it as long as all others."""
NEAR = 0.01
"""By which logits of these models may differ: they are between -1 and 1."""


def convert(base: Path, folder: Path, *, single: bool = False) -> bool:
    """Makes ``folder`` a copy of the bundle ``base`` with an int8 cache."""
    shutil.copytree(base, folder)
    found: dict[str, Any] = {**find_ranges(folder, [TOKENS, OTHERS])}
    np.savez(folder.parent / RANGES, **found)
    return quantize_cache(folder, folder.parent / RANGES, single=single)


def graph_of(folder: Path, name: str = "model.onnx") -> Any:
    return onnx.load(folder / name, load_external_data=False)


def session(folder: Path, model: Any = None) -> ort.InferenceSession:
    """:param model: a graph that isn't on disk, beside the weights of ``folder``."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    content = (model or graph_of(folder)).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Run:
    """A session with one buffer for each layer's keys and values, as the engine shares it."""

    def __init__(self, computed: ort.InferenceSession, room: int = 64) -> None:
        self._session, self._length = computed, 0
        kinds = {value.name: value.type for value in computed.get_inputs()}
        self.cache = {
            name: ort.OrtValue.ortvalue_from_numpy(
                np.zeros((1, HEADS, room, SIZE), np.int8 if kind == "tensor(int8)" else np.float32)
            )
            for name, kind in kinds.items()
            if name.startswith("past")
        }

    def read(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Appends tokens. :return: logits of the last one."""
        self._length += len(tokens)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self._length), np.int64))
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        binding.bind_output("logits")
        self._session.run_with_iobinding(binding)
        logits: npt.NDArray[np.float32] = binding.copy_outputs_to_cpu()[-1][0, -1].copy()
        return logits

    def stored(self) -> npt.NDArray[Any]:
        """The cache up to the last token."""
        return np.stack([value.numpy()[:, :, : self._length] for value in self.cache.values()])


@pytest.mark.parametrize("name", CONVERTED)
def test_logits_are_nearly_those_of_a_float_cache(name: str, cases: Cases, tmp_path: Path) -> None:
    base, folder = cases / name / "base", tmp_path / "int8"
    assert convert(base, folder)
    one, other = Run(session(base)), Run(session(folder))
    for tokens in (TOKENS[:20], TOKENS[20:30], TOKENS[30:31], TOKENS[31:]):
        assert np.allclose(one.read(tokens), other.read(tokens), atol=NEAR)
    assert other.stored().dtype == np.int8
    assert np.abs(other.stored()).max() > 100


@pytest.mark.parametrize("name", CONVERTED)
def test_a_prompt_may_be_read_in_any_pieces(name: str, cases: Cases, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    assert convert(cases / name / "base", folder)
    runs = [Run(session(folder)) for _ in range(2)]
    for start, end in ((0, 2), (2, 20), (20, len(TOKENS))):
        found = runs[0].read(TOKENS[start:end])
    assert np.allclose(found, runs[1].read(TOKENS), atol=1e-4)
    assert np.abs(runs[0].stored().astype(int) - runs[1].stored()).max() <= 1


def test_keys_longer_than_those_measured_are_cut_off(cases: Cases, tmp_path: Path) -> None:
    base, folder = cases / "llama" / "base", tmp_path / "int8"
    shutil.copytree(base, folder)
    found: dict[str, Any] = {name: values / 4 for name, values in find_ranges(folder, [TOKENS]).items()}
    np.savez(tmp_path / RANGES, **found)
    assert quantize_cache(folder, tmp_path / RANGES)
    for tokens in (TOKENS, TOKENS[:1]):
        run = Run(session(folder))
        assert np.isfinite(run.read(tokens)).all()
        assert np.abs(run.stored().astype(int)).max() in (127, 128)


def test_pairs_that_are_rotated_together_share_a_scale(cases: Cases) -> None:
    base = cases / "llama" / "base"
    (layer, *_) = layers_of(graph_of(base).graph, SIZE)
    ranges = find_ranges(base, [TOKENS])
    keys = ranges[layer.node.input[3]]
    assert np.array_equal(keys[:, : SIZE // 2], keys[:, SIZE // 2 :])
    values = ranges[layer.node.input[4]]
    assert not np.array_equal(values[:, : SIZE // 2], values[:, SIZE // 2 :])


def test_a_sliding_window_keeps_its_cache(cases: Cases) -> None:
    base = cases / "gemma2" / "base"
    assert layers_of(graph_of(base).graph, SIZE) == []
    assert find_ranges(base, [TOKENS]) == {}


def test_attention_that_is_not_known_keeps_its_cache(cases: Cases, tmp_path: Path) -> None:
    base, folder = cases / "llama" / "base", tmp_path / "bundle"
    shutil.copytree(base, folder)
    ranges: dict[str, Any] = {**find_ranges(folder, [TOKENS])}
    np.savez(tmp_path / RANGES, **ranges)
    model = graph_of(folder)
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.i = 0 if attribute.name == "do_rotary" else attribute.i
    onnx.save(model, folder / "model.onnx")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert find_ranges(folder, [TOKENS]) == {}
    assert not quantize_cache(folder, tmp_path / RANGES)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_graph_of_two_has_the_same_cache_in_both(
    by_row_base: Path, int4_base: Path, tmp_path: Path
) -> None:
    reading, writing = tmp_path / "reads", tmp_path / "writes"
    assert convert(by_row_base, reading)
    shutil.copytree(int4_base, writing)
    assert quantize_cache(writing, tmp_path / RANGES, single=True)
    alone = {READS: Run(session(reading)), WRITES: Run(session(writing))}
    wanted = alone[READS].read(TOKENS)
    alone[WRITES].cache, alone[WRITES]._length = alone[READS].cache, len(TOKENS)
    wanted_next = alone[WRITES].read(TOKENS[:1])
    join(reading, writing)
    whole = Run(session(reading))
    assert np.allclose(whole.read(TOKENS), wanted, atol=1e-4)
    assert np.allclose(whole.read(TOKENS[:1]), wanted_next, atol=1e-4)
    model = graph_of(reading)
    keep_part(model.graph, READS)
    assert np.allclose(Run(session(reading, model)).read(TOKENS), wanted, atol=1e-4)


# -- as it is used ---------------------------------------------------------------------------------


def asked(text: str) -> Prompt:
    return Prompt((Turn("user", ("Sort: ", Text(text, cut=True))),))


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an export makes it of a model whose cache is large."""
    out = tmp_path_factory.mktemp("exported") / "plain-int4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "item_bytes_of_cache", lambda values: 1)
        export_model(examine_local(tiny / "plain", "decoder"), out, ExportOrder(find_recipe("int4")))
    return out


def test_an_export_says_what_the_cache_takes(exported: Path, int4_base: Path) -> None:
    one, other = load_bundle(exported), load_bundle(int4_base)
    assert cache_item_bytes(exported) == 1
    assert one.manifest.kv_bytes_per_token * 4 == other.manifest.kv_bytes_per_token
    for name in ("generate", "adapters", "score"):
        graph = graph_of(exported, getattr(one.manifest.graphs, name)).graph
        assert {value.type.tensor_type.elem_type for value in cache_inputs(graph)} == {onnx.TensorProto.INT8}
    feet = [bundle_footprint(bundle) for bundle in (one, other)]
    assert [foot and foot.shape.kv_bytes_per_token for foot in feet] == [
        bundle.manifest.kv_bytes_per_token for bundle in (one, other)
    ]


def test_an_engine_generates_and_scores_with_it(exported: Path, tmp_path: Path) -> None:
    bundle = load_bundle(exported)
    prepacked = Prepared(exported / "model.onnx", 1, exported / str(bundle.manifest.graphs.score))
    decoders = [Decoder(exported, 1), Decoder(exported, 1, prepared=prepacked)]
    call = Score(asked("the valve leaks"), ("fault", "question", "order"))
    apart = decoders[0].score(call).probabilities
    decoders[1].score(call)
    assert decoders[1]._one_pass.find(waits=True) is not None
    for _ in range(2):
        assert np.allclose(decoders[1].score(call).probabilities, apart, atol=1e-3)
        assert len(decoders[0].generate(Generate(asked("the screw"), 8)).text) > 0
    for one in decoders:
        one.close()


def test_a_shared_prefix_gives_the_same_answer(exported: Path) -> None:
    fresh, used = Decoder(exported, 1), Decoder(exported, 1)
    used.generate(Generate(asked("something else entirely"), 4))
    call = Generate(asked("the pump is hot"), 8)
    assert used.generate(call).text == fresh.generate(call).text
    for one in (fresh, used):
        one.close()
