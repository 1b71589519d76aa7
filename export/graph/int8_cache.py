"""Int8 KV cache: makes a decoder's graphs keep keys and values as 8-bit codes, a quarter of float32's bytes.

A code is a value divided by its channel's scale and rounded. Scales are constants. They are applied outside
of attention: queries are multiplied by the scales of the keys, keys and values are divided by their scales,
and attention's output is multiplied by the scales of the values. Keys are rotated in between (RoPE), so two
channels that are rotated together share a scale. The cache then has one scale for all channels, 1.

``GroupQueryAttention`` of onnxruntime can read codes. For a single token that is faster than float32, since
attention reads a quarter of the bytes; for the many tokens of a prompt it takes two to eight times as long
(``benchmarks/LOG.md``). So an ``If`` in each layer chooses: for several tokens, it converts the earlier codes
to float32, computes attention in float32, and stores the new codes. New keys and values are rounded first, so
that results don't depend on the pieces in which a prompt is computed.

The branch for several tokens stores codes in place (``ScatterND``): past and present are one buffer
(``past_present_share_buffer``). In the scoring graph, the present is a new tensor. A pass has one sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.graph.lora_graph import GRAPH as LORA
from edgeslm_export.graph.onnx_edit import replace
from edgeslm_export.graph.recurrent_state import state_bytes, state_inputs
from edgeslm_export.graph.score_graph import GRAPH as SCORE
from edgeslm_export.graph.score_graph import POSITIONS

from edgeslm.bundle.model_shape import FLOAT_BYTES, item_bytes_of_cache

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

RANGES: Final = "cache_ranges.npz"
"""File in the work folder of an export that has the largest keys and values (``evaluate.cache_ranges``): for
each input of the plain graph that has earlier keys or values, the largest absolute value of each channel,
float32 [heads, size]."""
STEPS: Final = 127
"""Largest code."""
_ATTENTION: Final = "GroupQueryAttention"
_NAME: Final = "/int8_cache"
_PAST, _PRESENT = "past_key_values.", "present."


def quantize_cache(folder: Path, ranges: Path, *, single: bool = False) -> bool:
    """Gives all graphs in a model folder an int8 cache.

    :param ranges: the file ``RANGES``.
    :param single: whether the plain graph computes single tokens only (``decode_graph``).
    :return: false, with nothing changed, if the attention of a graph can't be converted.
    """
    import numpy as np
    import onnx

    with np.load(ranges) as found:
        reach = dict(found)
    if not reach:
        return False
    models = {}
    for name in ("model.onnx", LORA, SCORE):
        if (folder / name).exists():
            models[name] = model = onnx.load(folder / name, load_external_data=False)
            if not _Conversion(model.graph, reach, scores=name == SCORE, single=single).run():
                return False
    for name, model in models.items():
        onnx.save(model, folder / name)
    return True


def cache_inputs(graph: Any) -> list[Any]:
    """The inputs of a graph that have earlier keys and values."""
    return [value for value in graph.input if value.name.startswith(_PAST)]


def cache_item_bytes(folder: Path) -> int:
    """Bytes of a number in the cache of a model folder's plain graph."""
    import onnx
    from onnx import helper

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    kinds = {value.type.tensor_type.elem_type for value in cache_inputs(graph)}
    return max(int(helper.tensor_dtype_to_np_dtype(kind).itemsize) for kind in kinds)


def cache_sizes(folder: Path) -> dict[str, int | None]:
    """The manifest's sizes of a model folder's caches: ``kv_bytes_per_token`` (an upper bound, since
    sliding-window layers need less) and ``state_bytes`` (None without recurrent states)."""
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    token_bytes = _values_per_token(graph, read_settings(folder)) * cache_item_bytes(folder)
    return {"kv_bytes_per_token": token_bytes, "state_bytes": state_bytes(folder) or None}


def wants_int8(folder: Path) -> bool:
    """Whether a model gets an int8 cache: a float32 cache of the whole context is large, and all layers have
    a cache of keys and values, none a recurrent state."""
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    settings = read_settings(folder)
    values = _values_per_token(graph, settings) * int(settings["context_length"])
    return item_bytes_of_cache(values) < FLOAT_BYTES and not state_inputs(graph)


def _values_per_token(graph: Any, settings: Mapping[str, Any]) -> int:
    decoder = settings["decoder"]
    return len(cache_inputs(graph)) * int(decoder["num_key_value_heads"]) * int(decoder["head_size"])


def read_settings(folder: Path) -> dict[str, Any]:
    """The section ``model`` of ``genai_config.json``."""
    settings: dict[str, Any] = json.loads((folder / "genai_config.json").read_bytes())["model"]
    return settings


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention of one layer. A head has ``size`` channels; ``turned`` is the number of those that RoPE
    rotates, in pairs."""

    node: Any
    heads: int
    kv_heads: int
    size: int
    turned: int
    interleaved: bool

    @property
    def is_packed(self) -> bool:
        """Whether queries, keys and values are one tensor."""
        return not self.node.input[1]

    def largest_keys(self, keys: Floats) -> Floats:
        """The largest absolute value of each channel of keys [kv heads, tokens, size], [kv heads, size]. Both
        channels of a rotated pair get the length of their vector, which no rotation changes."""
        import numpy as np

        half = self.turned // 2
        found: Floats = np.abs(keys).max(axis=1)
        if self.interleaved:
            one, other = slice(0, self.turned, 2), slice(1, self.turned, 2)
        else:
            one, other = slice(0, half), slice(half, self.turned)
        found[:, one] = found[:, other] = np.hypot(keys[..., one], keys[..., other]).max(axis=1)
        return found

    def factors(self, keys: Floats, values: Floats) -> dict[str, Floats]:
        """Factors by which queries, keys, values (or ``packed``) and the output are multiplied.

        :param keys: the largest absolute value of each channel, [kv heads, size].
        """
        import numpy as np

        k, v = _scales(keys), _scales(values)
        group = self.heads // self.kv_heads
        found: dict[str, Floats] = {
            "queries": np.repeat(k, group, axis=0).ravel(),
            "keys": np.reciprocal(k.ravel()),
            "values": np.reciprocal(v.ravel()),
        }
        if self.is_packed:
            found = {"packed": np.concatenate(list(found.values()))}
        return {**found, "output": np.repeat(v, group, axis=0).ravel()}


def layers_of(graph: Any, size: int) -> list[Layer]:
    """The layers of a graph; an empty list if one of them can't have an int8 cache.

    :param size: number of channels of a head.
    """
    found = []
    for node in graph.node:
        if node.op_type != _ATTENTION:
            continue
        settings = {attribute.name: attribute.i for attribute in node.attribute}
        angles = [tensor.dims[1] for tensor in graph.initializer if tensor.name == node.input[7]]
        is_plain = settings.get("do_rotary") and not settings.get("sliding_window_cache")
        if not angles or not is_plain or any(node.input[11:]) or len(node.output) != 3:
            return []
        heads, kv_heads = settings["num_heads"], settings["kv_num_heads"]
        interleaved = bool(settings.get("rotary_interleaved"))
        found.append(Layer(node, heads, kv_heads, size, 2 * angles[0], interleaved))
    return found


def _scales(reach: Floats) -> Floats:
    import numpy as np

    scales: Floats = np.where(reach > 0, reach / STEPS, 1).astype(np.float32)
    return scales


class _Conversion:
    """Conversion of one graph, in place."""

    def __init__(self, graph: Any, reach: Mapping[str, Floats], *, scores: bool, single: bool) -> None:
        self._graph, self._reach, self._scores, self._single = graph, reach, scores, single
        self._constants: dict[str, Any] = {}

    def run(self) -> bool:
        """:return: false, with nothing changed, if a layer can't be converted."""
        size = next(iter(self._reach.values())).shape[1]
        layers = layers_of(self._graph, size)
        if not layers or not all({*layer.node.input[3:5]} <= self._reach.keys() for layer in layers):
            return False
        converted = {layer.node.name: self._attention(layer) for layer in layers}
        nodes: list[Any] = []
        for node in self._graph.node:
            if node.name == layers[0].node.name and not (self._scores or self._single):
                nodes += self._places(layers[0])
            nodes += converted.get(node.name, [node])
        replace(self._graph, nodes, [*self._graph.initializer, *self._constants.values()])
        self._declare()
        return True

    def _constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(values, f"{_NAME}/{name}")
        return f"{_NAME}/{name}"

    def _places(self, layer: Layer) -> list[Any]:
        """The nodes that all layers share: how many tokens there are, and where their codes go."""
        import numpy as np
        from onnx import TensorProto

        first = self._constant("zero", np.zeros(1, np.int64))
        one = self._constant("one", np.array(1, np.int64))
        last = self._constant("last", np.array([1, 3], np.int64))
        heads = np.zeros((1, layer.kv_heads, 1, 2), np.int64)
        heads[0, :, 0, 1] = range(layer.kv_heads)
        pairs = self._constant("pairs", heads)
        return [
            _node("Shape", [layer.node.input[0]], "count/list", start=1, end=2),
            _node("Squeeze", [f"{_NAME}/count/list", first], "count"),
            _node("Greater", [f"{_NAME}/count", one], "are_several"),
            _node("Cast", [layer.node.input[6]], "end", to=TensorProto.INT64),
            _node("Sub", [f"{_NAME}/end", f"{_NAME}/count"], "start"),
            _node("Unsqueeze", [f"{_NAME}/start", first], "start/list"),
            _node("Range", [f"{_NAME}/start", f"{_NAME}/end", one], "positions/list"),
            _node("Unsqueeze", [f"{_NAME}/positions/list", first], "positions"),
            # ``ScatterND`` takes places [1, heads, tokens, 3]: sequence, head and position.
            _node("Unsqueeze", [f"{_NAME}/positions", last], "column"),
            _node("Mul", [f"{_NAME}/column", first], "zeros"),
            _node("Add", [f"{_NAME}/zeros", pairs], "places/pairs"),
            _node("Add", [f"{_NAME}/column", self._constant("columns", heads[..., :1])], "places/positions"),
            _node("Concat", [f"{_NAME}/places/pairs", f"{_NAME}/places/positions"], "places", axis=3),
        ]

    def _attention(self, layer: Layer) -> list[Any]:
        """The nodes that replace the attention of a layer."""
        old, name = layer.node, layer.node.name
        factors = {
            what: self._constant(f"{name}/{what}", values)
            for what, values in layer.factors(self._reach[old.input[3]], self._reach[old.input[4]]).items()
        }
        output = factors.pop("output")
        inputs, nodes = list(old.input), []
        for place, (what, factor) in enumerate(factors.items()):
            nodes.append(_node("Mul", [inputs[place], factor], f"{name}/{what}/scaled"))
            inputs[place] = nodes[-1].output[0]
        made = [f"{_NAME}/{name}/attended", *old.output[1:]]
        if self._scores:
            nodes += self._several(layer, inputs, made)
        elif self._single:
            nodes += self._one(layer, inputs, made)
        else:
            nodes.append(self._choose(layer, inputs, made))
        nodes.append(_node("Mul", [made[0], output], f"{name}/scaled"))
        nodes[-1].output[0] = old.output[0]
        return nodes

    def _choose(self, layer: Layer, inputs: list[str], made: list[str]) -> Any:
        from onnx import TensorProto, helper

        branches = []
        for part, compute in (("several", self._several), ("single", self._one)):
            names = [f"{_NAME}/{layer.node.name}/{part}/{what}" for what in ("output", "keys", "values")]
            kinds = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT8
            shapes = [1, None, layer.heads * layer.size], *[[1, layer.kv_heads, None, layer.size]] * 2
            values = map(helper.make_tensor_value_info, names, kinds, shapes)
            nodes = compute(layer, inputs, names)
            branches.append(helper.make_graph(nodes, part, [], list(values)))
        name = f"{_NAME}/{layer.node.name}/choice"
        return helper.make_node(
            "If", [f"{_NAME}/are_several"], made, name, then_branch=branches[0], else_branch=branches[1]
        )

    def _one(self, layer: Layer, inputs: list[str], made: list[str]) -> list[Any]:
        """Attention that reads codes and stores the new ones."""
        import numpy as np
        from onnx import helper

        unit = self._constant("unit", np.ones(1, np.float32))
        one = type(layer.node)()
        one.CopyFrom(layer.node)
        one.input[:] = [*inputs, *[""] * (12 - len(inputs)), unit, unit]
        one.output[:], one.name = made, f"{layer.node.name}/codes"
        quantized = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
        one.attribute.extend(helper.make_attribute(*pair) for pair in quantized.items())
        return [one]

    def _several(self, layer: Layer, inputs: list[str], made: list[str]) -> list[Any]:
        """Attention in float32, with rounded keys and values."""
        import numpy as np
        from onnx import TensorProto, helper

        old, name = layer.node, f"{layer.node.name}/several"
        positions = POSITIONS if self._scores else f"{_NAME}/positions"
        parts = inputs[:3]
        nodes = []
        if layer.is_packed:
            sizes = layer.size * np.array([layer.heads, layer.kv_heads, layer.kv_heads], np.int64)
            split = self._constant("split", sizes)
            parts = [f"{_NAME}/{name}/split/{what}" for what in ("queries", "keys", "values")]
            nodes.append(helper.make_node("Split", [inputs[0], split], parts, f"{name}/Split", axis=2))
        turn = {"interleaved": int(layer.interleaved), "domain": old.domain}
        if layer.turned < layer.size:
            turn["rotary_embedding_dim"] = layer.turned
        for place, heads in enumerate((layer.heads, layer.kv_heads)):
            source = [parts[place], positions, *old.input[7:9]]
            nodes.append(_node("RotaryEmbedding", source, f"{name}/turned/{place}", num_heads=heads, **turn))
            parts[place] = nodes[-1].output[0]
        low, high = (
            self._constant(what, np.float32(end)) for what, end in (("low", -STEPS), ("high", STEPS))
        )
        split_heads = self._constant("split_heads", np.array([0, 0, layer.kv_heads, layer.size], np.int64))
        past = []
        for place, earlier in ((1, old.input[3]), (2, old.input[4])):
            here, stored = f"{name}/{place}", made[place]
            nodes += [
                _node("Round", [parts[place]], f"{here}/round"),
                _node("Clip", [f"{_NAME}/{here}/round", low, high], f"{here}/clip"),
                _node("Reshape", [f"{_NAME}/{here}/clip", split_heads], f"{here}/apart"),
                _node("Transpose", [f"{_NAME}/{here}/apart"], f"{here}/by_head", perm=[0, 2, 1, 3]),
                _node("Cast", [f"{_NAME}/{here}/by_head"], f"{here}/codes", to=TensorProto.INT8),
            ]
            parts[place], codes = f"{_NAME}/{here}/clip", f"{_NAME}/{here}/codes"
            if self._scores:
                nodes.append(helper.make_node("Concat", [earlier, codes], [stored], f"{here}/store", axis=2))
            else:
                start = [self._constant("zero", np.zeros(1, np.int64)), f"{_NAME}/start/list"]
                axis = self._constant("axis", np.array([2], np.int64))
                store = [earlier, f"{_NAME}/places", codes]
                nodes.append(helper.make_node("ScatterND", store, [stored], f"{here}/store"))
                nodes.append(_node("Slice", [earlier, *start, axis], f"{here}/earlier"))
                earlier = nodes[-1].output[0]
            nodes.append(_node("Cast", [earlier], f"{here}/past", to=TensorProto.FLOAT))
            past.append(nodes[-1].output[0])
        one = type(old)()
        one.CopyFrom(old)
        one.input[:] = [*parts, *past, *old.input[5:7], "", "", "", *old.input[10:]]
        one.output[:], one.name = [made[0], f"{_NAME}/{name}/all_keys", f"{_NAME}/{name}/all_values"], name
        for attribute in one.attribute:
            if attribute.name in ("do_rotary", "rotary_interleaved"):
                attribute.i = 0
        return [*nodes, one]

    def _declare(self) -> None:
        """Changes the types of the graph's inputs and outputs."""
        from onnx import TensorProto

        for value in (*cache_inputs(self._graph), *self._graph.output):
            if value.name.startswith((_PAST, _PRESENT)):
                value.type.tensor_type.elem_type = TensorProto.INT8


def _node(kind: str, inputs: list[str], name: str, **attributes: Any) -> Any:
    """A node whose output has its name."""
    from onnx import helper

    return helper.make_node(kind, inputs, [f"{_NAME}/{name}"], f"{_NAME}/{name}", **attributes)
