"""Where onnxruntime-genai's builder keeps the last token alone (``prune_lm_head``): found and replaced.

What it writes is a Gather of the last position and an Unsqueeze before the head's product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_PRUNING: Final = "/lm_head/prune/"


def replace_pruning(graph: Any, kept: str, tokens: str, make: Callable[[str], list[Any]]) -> bool:
    """Changes the graph in place.

    :param kept: the value that the head is to read instead, [1, ``tokens``, size].
    :param tokens: name of the dimension that the head's values have then.
    :param make: gets the name of the values of all tokens, and gives the nodes that make ``kept`` of them.
    :return: false where the head is not pruned; nothing is changed then.
    """
    found = _find(graph)
    if found is None:
        return False
    _put(graph, *found, kept, make)
    rename_tokens(graph, tokens)
    return True


def remove_pruning(graph: Any) -> bool:
    """The head reads all tokens. Changes the graph in place; false where it was left as it is."""
    found = _find(graph)
    if found is None:
        return False
    _put(graph, *found, found[1], None)
    rename_tokens(graph, "sequence_length")
    return True


def _find(graph: Any) -> tuple[list[Any], str] | None:
    """The nodes that prune, and the values of all tokens that they read."""
    pruning = [node for node in graph.node if _PRUNING in node.name]
    made = {output for node in pruning for output in node.output}
    hidden = {node.input[0] for node in pruning} - made
    return (pruning, *hidden) if len(hidden) == 1 else None


def _put(
    graph: Any, pruning: list[Any], hidden: str, kept: str, make: Callable[[str], list[Any]] | None
) -> None:
    """``kept`` in the place of what ``pruning`` made, and the nodes that make it."""
    made = {output for node in pruning for output in node.output}
    nodes = []
    for node in graph.node:
        if node in pruning:
            nodes += make(hidden) if make and node == pruning[0] else []
            continue
        for place, source in enumerate(node.input):
            if source in made:
                node.input[place] = kept
        nodes.append(node)
    replace_nodes(graph, nodes)


def rename_tokens(graph: Any, tokens: str) -> None:
    """The head's values have ``tokens`` as their second dimension."""
    for value in (*graph.output, *graph.value_info):
        dimensions = value.type.tensor_type.shape.dim
        if (value.name == "logits" or value.name.startswith("/lm_head/")) and len(dimensions) == 3:
            dimensions[1].Clear()
            dimensions[1].dim_param = tokens


def replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Some of ``nodes`` are the graph's own, which go with its list: so they are copied first."""
    copied = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)
