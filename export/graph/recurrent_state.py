"""Recurrent states: makes the graphs of LFM2 and Qwen3.5 what onnxruntime-genai can run and rewind on a CPU.

The builder's graph has a state for each convolution or linear attention, as inputs and outputs besides the
keys and values. Two things of version 0.18 stand in the way, and ``serve_states`` mends both:

- The runtime's own class for LFM2 can't keep a state. Its general class can, but only for layers that have a
  recurrent state besides that of their convolution. So LFM2's layers get one, a single number that nothing
  reads.
- Qwen3.5's positions have three rows, for images, and the CPU's ``RotaryEmbedding`` takes one. The rows are
  equal for text, so the first is taken.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final

CONV, RECURRENT = "conv", "recurrent"
_STATE: Final = re.compile(rf"past\.(\d+)\.({CONV}|{RECURRENT})")
_POSITIONS: Final = "position_ids"
_FIRST: Final = "/model/first_position"


def state_inputs(graph: Any) -> list[Any]:
    """The inputs of a graph that have recurrent states, those of convolutions included."""
    return [value for value in graph.input if _STATE.fullmatch(value.name)]


def state_bytes(folder: Path) -> int:
    """Bytes of a sequence's recurrent states in a model folder; 0 for other models."""
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    shapes = (
        [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        for value in state_inputs(graph)
    )
    return sum(4 * math.prod(shape) for shape in shapes)


def serve_states(folder: Path) -> bool:
    """Changes a model folder that the builder wrote. :return: whether the model has recurrent states."""
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    if not (states := state_inputs(model.graph)):
        return False
    found = {tuple(value.name.split(".")[1:]) for value in states}
    for layer in sorted((layer for layer, kind in found if kind == CONV), key=int):
        if (layer, RECURRENT) not in found:
            _add_state(model.graph, layer)
    _take_first_positions(model.graph)
    onnx.save(model, folder / "model.onnx")
    file = folder / "genai_config.json"
    config = json.loads(file.read_text("utf-8"))
    _name_states(config["model"])
    file.write_text(json.dumps(config, indent=4), "utf-8")
    return True


def _add_state(graph: Any, layer: str) -> None:
    from onnx import TensorProto, helper

    past, present = f"past.{layer}.{RECURRENT}", f"present.{layer}.{RECURRENT}"
    for values, name in ((graph.input, past), (graph.output, present)):
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", 1, 1, 1]))
    graph.node.append(helper.make_node("Identity", [past], [present], name=f"/model/layers.{layer}/state"))


def _take_first_positions(graph: Any) -> None:
    """Gives ``RotaryEmbedding`` the first of three rows of positions."""
    import numpy as np
    from onnx import helper, numpy_helper

    shapes = [value.type.tensor_type.shape.dim for value in graph.input if value.name == _POSITIONS]
    if not shapes or len(shapes[0]) != 3:
        return
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), f"{_FIRST}/row"))
    row = helper.make_node("Gather", [_POSITIONS, f"{_FIRST}/row"], [_FIRST], name=f"{_FIRST}/Gather", axis=0)
    for node in graph.node:
        if node.op_type == "RotaryEmbedding":
            node.input[1] = _FIRST
    graph.node.insert(0, row)


def _name_states(settings: dict[str, Any]) -> None:
    """Names the states in the section ``model`` of ``genai_config.json``, for the runtime's general class."""
    decoder = settings["decoder"]
    for key in ("layer_types", "conv_cache_size"):  # with them, it takes the class that can't keep a state
        decoder.pop(key, None)
    if settings["type"] == "lfm2":
        settings["type"] = "qwen3_5_text"
    for values, when in (("inputs", "past"), ("outputs", "present")):
        decoder[values][f"{when}_{RECURRENT}_names"] = f"{when}.%d.{RECURRENT}"
