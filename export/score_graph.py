"""The third graph of a decoder bundle: it reads branches, and gives the logits of chosen positions.

``model_score.onnx`` reads the same ``model.onnx.data`` as ``model.onnx``. It takes each token's position,
what each token may look at (``GroupQueryAttention``'s inputs ``position_ids`` and ``attention_bias``, which
the builder leaves empty) and which tokens' logits are wanted: so all labels of a classification are branches
on one message, read in one pass (tree attention, as in SpecInfer, Miao et al. 2023, arXiv 2305.09781). Works
on finished graphs of onnxruntime-genai's builder; ``edgeslm.engine.scorer`` runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeslm_export.pruned_head import replace_pruning

GRAPH: Final = "model_score.onnx"

POSITIONS, BIAS, WANTED = "position_ids", "attention_bias", "logit_positions"
"""Its inputs beside those of the plain graph: int64 [1, tokens], float32 [1, 1, tokens, all tokens], int64
[wanted]; the logits are [1, wanted, vocabulary]."""

_ATTENTION: Final = "GroupQueryAttention"
_POSITIONS_PLACE, _BIAS_PLACE = 9, 10
"""Where onnxruntime's ContribOperators.md has them among the inputs."""


def write_score_graph(folder: Path, plain: str = "model.onnx") -> bool:
    """Writes ``model_score.onnx`` beside the graph ``plain`` of a bundle.

    :return: false if this architecture can't be scored so; nothing is written then.
    """
    import onnx

    model = onnx.load(folder / plain, load_external_data=False)
    if not open_branches(model.graph):
        return False
    onnx.save(model, folder / GRAPH)
    return True


def open_branches(graph: Any) -> bool:
    """Changes the graph in place.

    :return: false where it was left as it is: attention that looks through a window of neighbours would take
        branches for neighbours, a graph that switches between two (Phi-3's LongRoPE) switches by the count of
        all tokens, and a head that is not pruned has no place for ``WANTED``.
    """
    if any(node.op_type == "If" for node in graph.node):
        return False
    attention = [node for node in graph.node if node.op_type == _ATTENTION]
    if not attention or any(_has_window(node) or _takes_positions(node) for node in attention):
        return False
    from onnx import TensorProto, helper

    kept = "/lm_head/wanted/Gather/output_0"

    def gather(hidden: str) -> list[Any]:
        return [helper.make_node("Gather", [hidden, WANTED], [kept], name="/lm_head/wanted/Gather", axis=1)]

    if not replace_pruning(graph, kept, "wanted", gather):
        return False
    for node in graph.node:  # those before were copied
        if node.op_type != _ATTENTION:
            continue
        node.input.extend([""] * (_BIAS_PLACE + 1 - len(node.input)))
        node.input[_POSITIONS_PLACE], node.input[_BIAS_PLACE] = POSITIONS, BIAS
    if POSITIONS not in {value.name for value in graph.input}:
        shape: list[str | int] = ["batch_size", "sequence_length"]
        graph.input.append(helper.make_tensor_value_info(POSITIONS, TensorProto.INT64, shape))
    shape = [1, 1, "sequence_length", "total_sequence_length"]
    graph.input.append(helper.make_tensor_value_info(BIAS, TensorProto.FLOAT, shape))
    graph.input.append(helper.make_tensor_value_info(WANTED, TensorProto.INT64, ["wanted"]))
    return True


def _has_window(node: Any) -> bool:
    return any(attribute.name == "local_window_size" and attribute.i > 0 for attribute in node.attribute)


def _takes_positions(node: Any) -> bool:
    return any(node.input[_POSITIONS_PLACE : _BIAS_PLACE + 1])
