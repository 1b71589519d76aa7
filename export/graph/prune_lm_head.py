"""Head pruning: finds and replaces the nodes by which onnxruntime-genai's builder keeps the last token only.

With the option ``prune_lm_head`` the builder writes a Gather of the last position and an Unsqueeze before the
head's product. A node that replaces them can be moved before the last layer's products, since tokens are
independent after the last attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgeslm_export.graph.onnx_edit import replace

_PRUNING: Final = "/lm_head/prune/"


def pruned_values(graph: Any) -> str | None:
    """Name of the value that the pruning nodes read, which has all tokens; None if the head isn't pruned."""
    pruning = [node for node in graph.node if _PRUNING in node.name]
    made = {output for node in pruning for output in node.output}
    hidden = {node.input[0] for node in pruning} - made
    return next(iter(hidden)) if len(hidden) == 1 else None


def replace_pruning(graph: Any, kept: str, tokens: str, makers: Sequence[Any] = ()) -> None:
    """Replaces the pruning nodes of a graph, in place.

    :param kept: name of the value that the head reads after the replacement, [1, ``tokens``, size].
    :param tokens: name of the token dimension of ``kept``.
    :param makers: the nodes that compute ``kept`` from ``pruned_values``.
    """
    pruning = [node for node in graph.node if _PRUNING in node.name]
    made = {output for node in pruning for output in node.output}
    nodes: list[Any] = []
    for node in graph.node:
        if node in pruning:
            nodes += makers if node == pruning[0] else []
            continue
        for place, source in enumerate(node.input):
            if source in made:
                node.input[place] = kept
        nodes.append(node)
    replace(graph, nodes)
    rename_tokens(graph, tokens)


def cut_earlier(graph: Any, cut: str) -> None:
    """Moves the node ``cut``, which selects tokens, from the end of the last layer to just after that layer's
    attention, in place. ``cut`` then selects from the attention's output and from the residual that bypasses
    the attention. Does nothing if no attention node is found.

    The recorded shapes of the values between the two places are dropped: the shapes would be wrong, and the
    runtime plans memory by them.
    """
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    (old,) = [node for node in graph.node if node.name == cut]
    if not attention:
        return
    attended = attention[-1].output[0]
    behind, made = [], {attended}
    for node in graph.node:  # in the order in which they are computed
        if made & set(node.input) and node is not old:
            behind.append(node)
            made |= set(node.output)
        elif node is old:
            made |= {old.output[0]}
    fixed = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input} | {""}
    for node in graph.node:
        if set(node.input) <= fixed - {value.name for value in graph.input}:
            fixed |= set(node.output)
    reached = {name for node in behind for name in node.output} | {old.output[0]}
    crossing = {name for node in behind for name in node.input if name} - reached - fixed
    cuts, instead = [], {old.output[0]: old.input[0]}
    for number, name in enumerate(sorted(crossing)):
        one = type(old)()
        one.CopyFrom(old)
        one.name, one.input[0], one.output[0] = f"{cut}/{number}", name, f"{old.output[0]}/{number}"
        cuts.append(one)
        instead[name] = one.output[0]
    counted = {old.input[0]: attended, old.output[0]: old.input[0]}  # all tokens, and those that are kept
    nodes = [node for node in graph.node if node is not old]
    for node in nodes:
        names = counted if node.op_type == "Shape" else instead if node in behind else {}
        node.input[:] = [names.get(name, name) for name in node.input]
    known = [value for value in graph.value_info if value.name not in reached]
    replace(graph, _in_order([*nodes, *cuts], fixed), infos=known)


def _in_order(nodes: list[Any], known: set[str]) -> list[Any]:
    """Sorts nodes topologically. :param known: values that no node has to produce."""
    ordered, known, waiting = [], set(known), nodes
    while waiting:
        later = []
        for node in waiting:
            if set(node.input) <= known:
                ordered.append(node)
                known |= set(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"nothing makes what {later[0].name} reads")
        waiting = later
    return ordered


def rename_tokens(graph: Any, tokens: str) -> None:
    """Renames the second dimension of the head's values to ``tokens``."""
    for value in (*graph.output, *graph.value_info):
        dimensions = value.type.tensor_type.shape.dim
        if (value.name == "logits" or value.name.startswith("/lm_head/")) and len(dimensions) == 3:
            dimensions[1].Clear()
            dimensions[1].dim_param = tokens
