"""ONNX graph editing: finds nodes, and replaces a graph's lists of nodes, initializers and shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def replace(
    graph: Any,
    nodes: Iterable[Any],
    constants: Iterable[Any] | None = None,
    infos: Iterable[Any] | None = None,
) -> None:
    """Replaces the graph's nodes and, if given, its initializers and value shapes.

    The new nodes, initializers and shapes are copied first: some may belong to the graph, and clearing the
    graph's lists destroys them.
    """
    lists = (graph.node, nodes), (graph.initializer, constants), (graph.value_info, infos)
    copied = [
        (values, [type(one).FromString(one.SerializeToString()) for one in new])
        for values, new in lists
        if new is not None
    ]
    for values, new in copied:
        del values[:]
        values.extend(new)


def makers_of(graph: Any) -> dict[str, Any]:
    """The graph's nodes by the names of their outputs."""
    return {name: node for node in graph.node for name in node.output if name}


def read_by(node: Any) -> set[str]:
    """Names of the values that a node and the nodes in its branches read."""
    inner = (other for attribute in node.attribute for other in attribute.g.node)
    return set(node.input).union(*map(read_by, inner))
