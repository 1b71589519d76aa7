"""Decode graph: joins a graph for prompts (prefill) with one for single tokens (decode) under an ONNX ``If``.

Prompts are computed fastest with integer products (``matmul_by_row``), single tokens with the weights that
take the fewest bytes. A bundle's plain graph, ``model.onnx``, may therefore hold two branches, chosen by the
number of tokens as in optimum's merged decoders. The branch ``READS`` is for prompts and for draft tokens of
speculation, the branch ``WRITES`` for a single next token. Both branches have the same inputs and share the
KV cache.

Weights are stored outside of the branches, and weights that the branches share are stored once. If weights
were inside a branch, the runtime would keep the file's bytes in memory in addition to the prepacked weights,
and would refuse a file with several hard links. The graph that scores labels gets the branch ``WRITES`` too,
though it never runs that branch: the order of prepacked weights depends on their names, and the plain and the
scoring graph share one prepacked file. The graph for adapters has the nodes of ``READS`` only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeslm_export.graph.external_data import append, content_of, file_of
from edgeslm_export.graph.onnx_edit import read_by, replace
from edgeslm_export.graph.score_graph import GRAPH as SCORE

READS, WRITES = "reads", "writes"
PLAIN: Final = "model.onnx"
_CHOICE: Final = "/several_tokens"
_MORE_THAN: Final = {PLAIN: 1, SCORE: 0}
"""For each graph, the number of tokens above which it runs the branch ``READS``."""


def join(folder: Path, writing: Path) -> None:
    """Joins the plain graph in ``writing`` to both graphs in ``folder``, the plain graph and the scoring
    graph. In each joined graph, the graph from ``folder`` is the branch ``READS`` and the graph from
    ``writing`` the branch ``WRITES``. Both folders hold models of onnxruntime-genai's builder.

    :raises ValueError: the graphs' inputs or outputs differ.
    """
    import onnx

    writes = onnx.load(writing / PLAIN, load_external_data=False)
    plain = onnx.load(folder / PLAIN, load_external_data=False)
    for values in ("input", "output"):
        if _names(getattr(plain.graph, values)) != _names(getattr(writes.graph, values)):
            raise ValueError(f"{folder} and {writing} have not the same {values}s")
    _prefix(writes.graph, _share(folder, plain.graph, writing, writes.graph))
    for name, least in _MORE_THAN.items():
        if not (folder / name).exists():
            continue
        model = onnx.load(folder / name, load_external_data=False)
        _choose(model.graph, writes.graph, least)
        known = {opset.domain for opset in model.opset_import}
        model.opset_import.extend(opset for opset in writes.opset_import if opset.domain not in known)
        onnx.save(model, folder / name)


def keep_part(graph: Any, part: str) -> None:
    """Reduces a joined graph to its branch ``part``, in place. A graph without branches stays unchanged."""
    (choice,) = [node for node in graph.node if node.name == _CHOICE] or [None]
    if choice is None:
        return
    (branch,) = [attribute.g for attribute in choice.attribute if attribute.g.name == part]
    used = {name for node in branch.node for name in read_by(node)}
    outside: list[Any] = []
    for node in reversed(graph.node):
        if node is not choice and used & set(node.output):
            used |= read_by(node)
            outside.insert(0, node)
    known = used | {name for node in branch.node for name in node.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    infos = [value for value in (*graph.value_info, *branch.value_info) if value.name in known]
    replace(graph, [*outside, *branch.node], kept, infos)
    _rename(graph, {name: name.removeprefix(f"{part}/") for name in _values(graph)})


def _choose(reads: Any, writes: Any, least: int) -> None:
    """Turns the graph ``reads`` into the joined graph, in place. :param writes: the graph for single tokens;
    only shared values have the same name in both graphs."""
    import numpy as np
    from onnx import helper, numpy_helper

    outputs = _names(reads.output)
    constants = {tensor.name: tensor for graph in (reads, writes) for tensor in graph.initializer}
    outside: dict[str, Any] = {}
    infos = {value.name: value for graph in (reads, writes) for value in graph.value_info}
    branches = {}
    for part, graph in ((READS, reads), (WRITES, writes)):
        branch = type(graph).FromString(graph.SerializeToString())
        if part == READS:
            _rename(branch, {name: f"{READS}/{name}" for name in outputs})
        branch.name = part
        fixed = set(constants)
        inside = []
        for node in branch.node:
            if set(node.input) <= fixed | {""}:
                fixed |= set(node.output)
                outside.setdefault(node.output[0], node)
            else:
                inside.append(node)
        made = {name for node in inside for name in node.output}
        replace(branch, inside, [], [value for value in branch.value_info if value.name in made])
        del branch.input[:]
        branches[part] = branch

    def make(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{_CHOICE}/{kind}", **attributes)

    count, few, several = (f"{_CHOICE}/{name}" for name in ("count", "few", "are"))
    nodes = [
        *outside.values(),
        make("Shape", ["input_ids"], count, start=1, end=2),
        make("Constant", [], few, value=numpy_helper.from_array(np.array([least], np.int64))),
        make("Greater", [count, few], several),
        helper.make_node(
            "If", [several], outputs, name=_CHOICE, then_branch=branches[READS], else_branch=branches[WRITES]
        ),
    ]
    kept = [infos[name] for node in outside.values() for name in node.output if name in infos]
    replace(reads, nodes, list(constants.values()), kept)


def _names(values: Any) -> list[str]:
    return [value.name for value in values]


def _values(graph: Any) -> set[str]:
    """Names of all values that a graph reads or produces."""
    made = {name for node in graph.node for name in (*node.input, *node.output)}
    return (made | set(_names(graph.initializer)) | set(_names(graph.output))) - {""}


def _rename(graph: Any, names: dict[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for value in (*graph.initializer, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def _prefix(writes: Any, shared: set[str]) -> None:
    """Prefixes the names of those nodes and values in ``writes`` that aren't shared with the other graph."""
    same = shared | set(_names(writes.input))
    for node in writes.node:  # values computed from shared constants only are shared too
        if set(node.output) <= shared or (node.input and set(node.input) <= shared | {""}):
            same |= set(node.output)
            shared = shared | set(node.output)
        else:
            node.name = f"{WRITES}/{node.name}"
    _rename(writes, {name: f"{WRITES}/{name}" for name in _values(writes) - same})


def _share(folder: Path, reads: Any, writing: Path, writes: Any) -> set[str]:
    """Drops those initializers of ``writes`` that ``reads`` has too, and appends the other weights of
    ``writes`` to the data file of ``reads``.

    :return: names of the shared initializers and constants.
    """
    others = {tensor.name: tensor for tensor in reads.initializer}
    location = file_of(reads)
    shared, own = set(), []
    for tensor in writes.initializer:
        other = others.get(tensor.name)
        is_same = other is not None and (other.data_type, other.dims) == (tensor.data_type, tensor.dims)
        if is_same and content_of(folder, other) == content_of(writing, tensor):
            shared.add(tensor.name)
            continue
        own.append(tensor)
        if tensor.external_data:
            append(folder, location, tensor, content_of(writing, tensor))
    replace(writes, list(writes.node), own, list(writes.value_info))
    constants = {node.output[0]: node for node in reads.node if node.op_type == "Constant"}
    for node in writes.node:
        other = constants.get(node.output[0])
        if node.op_type == "Constant" and other is not None and list(node.attribute) == list(other.attribute):
            shared.add(node.output[0])
    return shared
