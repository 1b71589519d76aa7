"""ONNX graph editing: parts found and replaced, which protobuf's lists have no way of their own for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def replace(
    graph: Any,
    nodes: Iterable[Any],
    constants: Iterable[Any] | None = None,
    infos: Iterable[Any] | None = None,
) -> None:
    """Other nodes, and if given other initializers and other shapes of values.

    They may be the graph's own, which go with its lists: so all are copied before any goes.
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
    """The nodes, by the values that they make."""
    return {name: node for node in graph.node for name in node.output if name}


def read_by(node: Any) -> set[str]:
    """Names of what a node reads, those in its branches included."""
    inner = (other for attribute in node.attribute for other in attribute.g.node)
    return set(node.input).union(*map(read_by, inner))
