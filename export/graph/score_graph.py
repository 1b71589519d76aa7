"""Scoring graph: a copy of a decoder's graph that scores all labels of a message in one pass.

``model_score.onnx`` reads the same ``model.onnx.data`` as ``model.onnx``. The scoring graph has additional
inputs: each token's position and an attention mask (the inputs ``position_ids`` and ``attention_bias`` of
``GroupQueryAttention``, which the builder leaves empty), the positions at which logits are wanted and, if the
embedding is tied, the tokens whose logits are wanted. With these inputs, one pass computes the message and
all labels, which are branches after the message (tree attention, as in SpecInfer, Miao et al., 2023, arXiv
2305.09781). The head computes logits only for the labels' tokens. Works on graphs of onnxruntime-genai's
builder; ``edgeslm.engine.worker.scorer`` runs the scoring graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeslm_export.graph.onnx_edit import replace
from edgeslm_export.graph.prune_lm_head import cut_earlier, pruned_values, replace_pruning
from edgeslm_export.graph.recurrent_state import state_inputs

GRAPH: Final = "model_score.onnx"

POSITIONS, BIAS, WANTED = "position_ids", "attention_bias", "logit_positions"
"""Names of the additional inputs. Their types and shapes are int64 [1, tokens], float32 [1, 1, tokens, all
tokens] and int64 [wanted]. The graph's output is the logits [1, wanted, vocabulary]."""
WORDS = "logit_tokens"
"""Name of a further input, int64 [words], which the graph has if the embedding is tied: the tokens whose
logits are wanted. Unless this input is empty, the output is the logits [1, wanted, words]."""

_ATTENTION: Final = "GroupQueryAttention"
_POSITIONS_PLACE, _BIAS_PLACE = 9, 10
"""Indices of positions and bias among the inputs of ``GroupQueryAttention`` (onnxruntime's
ContribOperators.md)."""


def write_score_graph(folder: Path) -> bool:
    """Writes ``model_score.onnx`` next to the plain graph of a bundle.

    :return: false, with nothing written, if the architecture doesn't allow it.
    """
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    if not open_branches(model.graph):
        return False
    onnx.save(model, folder / GRAPH)
    return True


def open_branches(graph: Any) -> bool:
    """Adds the inputs for scoring to the graph, in place. :return: false, with nothing changed, if a layer
    has windowed attention (the window would count tokens of other branches), if the graph switches between
    two branches by the number of tokens (Phi-3's LongRoPE), if it has a recurrent state (which would read
    the labels one after another), or if its head isn't pruned.
    """
    if any(node.op_type == "If" for node in graph.node) or state_inputs(graph):
        return False
    attention = [node for node in graph.node if node.op_type == _ATTENTION]
    if not attention or any(_has_window(node) or _takes_positions(node) for node in attention):
        return False
    from onnx import TensorProto, helper

    kept = "/lm_head/wanted/Gather/output_0"

    if (hidden := pruned_values(graph)) is None:
        return False
    gather = helper.make_node("Gather", [hidden, WANTED], [kept], name="/lm_head/wanted/Gather", axis=1)
    replace_pruning(graph, kept, "wanted", [gather])
    for node in graph.node:  # replace_pruning copied the nodes
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
    cut_earlier(graph, "/lm_head/wanted/Gather")
    _choose_words(graph)
    return True


def _choose_words(graph: Any) -> None:
    """Makes a head that is tied to the embedding compute only the tokens in ``WORDS``, unless that input is
    empty.

    The head's input is rounded as ``MatMulNBits`` rounds it in the whole head (accuracy level 4, with 8 bits
    and a scale for each group), so that both paths give a label the same score. The whole head stays in the
    graph as a branch, so that plain and scoring graph have the same prepacked weights and share one file.
    """
    from onnx import TensorProto, helper

    (head,) = [node for node in graph.node if "logits" in node.output]
    hidden = head.input[0]
    embeddings = [node for node in graph.node if node.op_type == "GatherBlockQuantized"]
    flat = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    rows = {attribute.name: attribute.i for attribute in head.attribute}
    if head.op_type != "MatMulNBits" or len(embeddings) != 1:
        return
    (embedding,) = embeddings
    is_tied = flat.get(embedding.input[0]) == head.input[1] and embedding.input[2] == head.input[2]
    if not is_tied or rows["K"] % rows["block_size"]:  # the last group would be padded
        return

    def branch(name: str, nodes: list[Any]) -> Any:
        shape = [1, "wanted", name]
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, shape)]
        )

    gather, every = type(embedding)(), type(head)()
    gather.CopyFrom(embedding)
    every.CopyFrom(head)
    gather.name, gather.input[1], gather.output[0] = "/lm_head/words/Gather", WORDS, "/lm_head/words/rows"
    every.output[0] = "/lm_head/every/logits"
    some = [
        *_round_as_head(hidden, rows["block_size"], rows["K"]),
        gather,
        _node("Transpose", ["/lm_head/words/rows"], "words/columns", perm=[1, 0]),
        _node("MatMul", ["/lm_head/words/read", "/lm_head/words/columns"], "words/logits"),
    ]
    choice = helper.make_node(
        "If",
        ["/lm_head/words/are"],
        ["logits"],
        name="/lm_head/words",
        then_branch=branch("words", some),
        else_branch=branch("vocabulary", [every]),
    )
    new = [
        _node("Size", [WORDS], "words/count"),
        _node("Cast", ["/lm_head/words/count"], "words/are", to=TensorProto.BOOL),
        choice,
    ]
    replace(graph, [one for one in graph.node if one.output[0] != "logits"] + new)
    for value in graph.output:
        if value.name == "logits":
            value.type.tensor_type.shape.dim[2].Clear()
    graph.input.append(helper.make_tensor_value_info(WORDS, TensorProto.INT64, ["words"]))


def _round_as_head(hidden: str, group: int, size: int) -> list[Any]:
    """Nodes that round ``hidden`` to 8-bit codes with a scale for each group; the rounded values are named
    ``/lm_head/words/read``."""
    import numpy as np
    from onnx import numpy_helper

    def constant(name: str, value: Any) -> Any:
        return _node("Constant", [], name, value=numpy_helper.from_array(value))

    return [
        constant("words/groups", np.array([1, -1, size // group, group])),
        constant("words/whole", np.array([1, -1, size])),
        constant("words/last", np.array([-1])),
        constant("words/steps", np.array(127, np.float32)),
        constant("words/least", np.array(1e-30, np.float32)),  # of a group of zeros
        _node("Reshape", [hidden, "/lm_head/words/groups"], "words/numbers"),
        _node("Abs", ["/lm_head/words/numbers"], "words/sizes"),
        _node("ReduceMax", ["/lm_head/words/sizes", "/lm_head/words/last"], "words/largest", keepdims=1),
        _node("Div", ["/lm_head/words/largest", "/lm_head/words/steps"], "words/step"),
        _node("Max", ["/lm_head/words/step", "/lm_head/words/least"], "words/scale"),
        _node("Div", ["/lm_head/words/numbers", "/lm_head/words/scale"], "words/shares"),
        _node("Round", ["/lm_head/words/shares"], "words/codes"),
        _node("Mul", ["/lm_head/words/codes", "/lm_head/words/scale"], "words/rounded"),
        _node("Reshape", ["/lm_head/words/rounded", "/lm_head/words/whole"], "words/read"),
    ]


def _node(kind: str, inputs: list[str], name: str, **attributes: Any) -> Any:
    from onnx import helper

    output = f"/lm_head/{name}"
    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)


def _has_window(node: Any) -> bool:
    return any(attribute.name == "local_window_size" and attribute.i > 0 for attribute in node.attribute)


def _takes_positions(node: Any) -> bool:
    return any(node.input[_POSITIONS_PLACE : _BIAS_PLACE + 1])
