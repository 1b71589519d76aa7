"""A decoder's graph that computes single tokens by matrices of their own.

Many tokens at a time are fastest as products of integers (``product_by_row``), one at a time where fewest
bytes are read. So the plain graph of a bundle may hold two, and the number of its tokens decides (the ``If``
of ONNX, as in the merged decoders of optimum): ``READS`` for prompts and for tokens that were proposed,
``WRITES`` for a token that follows alone. Both have the same inputs and share the cache; what they have of
the same weights lies in ``model.onnx.data`` once. The graphs beside it, for adapters and for labels in one
pass, are ``READS`` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeslm_export.pruned_head import replace_nodes

READS, WRITES = "reads", "writes"
_CHOICE: Final = "/several_tokens"
_ALIGNED: Final = 4096
"""Bytes to which each tensor's place is rounded: it is mapped."""


def join(folder: Path, writing: Path) -> None:
    """The graph of ``folder`` becomes the two of ``folder`` and ``writing``, two models of
    onnxruntime-genai's builder with the same inputs and outputs.

    :raises ValueError: they have others.
    """
    import onnx

    file = folder / "model.onnx"
    reads, writes = (onnx.load(place / "model.onnx", load_external_data=False) for place in (folder, writing))
    for part in ("input", "output"):
        if _names(getattr(reads.graph, part)) != _names(getattr(writes.graph, part)):
            raise ValueError(f"{folder} and {writing} have not the same {part}s")
    _tell_apart(writes.graph, _add_data(folder, reads.graph, writing, writes.graph))
    whole = onnx.ModelProto()
    whole.CopyFrom(reads)
    for parts in (whole.graph.node, whole.graph.initializer, whole.graph.value_info):
        del parts[:]
    whole.graph.node.extend(_choose(reads.graph, writes.graph))
    known = {opset.domain for opset in whole.opset_import}
    whole.opset_import.extend(opset for opset in writes.opset_import if opset.domain not in known)
    onnx.save(whole, file)


def is_joined(graph: Any) -> bool:
    return any(node.name == _CHOICE for node in graph.node)


def keep_part(graph: Any, part: str) -> None:
    """A joined graph becomes its ``part`` again; one that isn't joined stays. In place."""
    (choice,) = [node for node in graph.node if node.name == _CHOICE] or [None]
    if choice is None:
        return
    (branch,) = [a.g for a in choice.attribute if a.g.name == part]
    kept = type(branch).FromString(branch.SerializeToString())
    _rename(kept, {name: name.removeprefix(f"{part}/") for name in _values(kept)})
    for parts in ("node", "initializer", "value_info"):
        del getattr(graph, parts)[:]
        getattr(graph, parts).extend(getattr(kept, parts))


def _choose(reads: Any, writes: Any) -> list[Any]:
    """The nodes of the joined graph.

    The reading branch keeps its names, and comes first: the runtime then lays its weights out as those of the
    graph that scores labels, at the beginning of the file that both are prepared in.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{_CHOICE}/{kind}", **attributes)

    inputs, outputs = _names(reads.input), _names(reads.output)
    one = numpy_helper.from_array(np.array([1], np.int64))
    branches = {}
    for part, graph in ((READS, reads), (WRITES, writes)):
        own = set(outputs) if part == READS else _values(graph) - set(inputs)
        _rename(graph, {name: f"{part}/{name}" for name in own})
        graph.name = part
        del graph.input[:]
        branches[part] = graph
    for each in writes.node:
        each.name = f"{WRITES}/{each.name}"
    count, several = f"{_CHOICE}/count", f"{_CHOICE}/are"
    choice = helper.make_node(
        "If", [several], outputs, name=_CHOICE, then_branch=branches[READS], else_branch=branches[WRITES]
    )
    return [
        node("Shape", ["input_ids"], count, start=1, end=2),
        node("Constant", [], f"{_CHOICE}/one", value=one),
        node("Greater", [count, f"{_CHOICE}/one"], several),
        choice,
    ]


def _names(values: Any) -> list[str]:
    return [value.name for value in values]


def _values(graph: Any) -> set[str]:
    """Names of all values that a graph reads or makes."""
    made = {name for node in graph.node for name in (*node.input, *node.output)}
    return (made | set(_names(graph.initializer)) | set(_names(graph.output))) - {""}


def _rename(graph: Any, names: dict[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for value in (*graph.initializer, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def _tell_apart(writes: Any, shared: set[str]) -> None:
    """Products with weights that both parts have get twice their scales, and are halved: the same numbers.

    The runtime lays equal weights out once and keeps them with the branch that it comes to first, which is
    this one: the reading branch would lack what the graph that scores labels has.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    two, half = f"{_CHOICE}/two", f"{_CHOICE}/half"
    nodes: list[Any] = []
    for node in writes.node:
        if node.op_type != "MatMulNBits" or node.input[1] not in shared:
            nodes.append(node)
            continue
        scales, product = f"{node.name}/scales", f"{node.name}/twice"
        nodes.append(helper.make_node("Mul", [node.input[2], two], [scales], name=f"{node.name}/Twice"))
        halved = helper.make_node("Mul", [product, half], [node.output[0]], name=f"{node.name}/Half")
        node.input[2], node.output[0] = scales, product
        nodes += [node, halved]
    replace_nodes(writes, nodes)
    for name, value in ((two, 2.0), (half, 0.5)):
        writes.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def _add_data(folder: Path, reads: Any, writing: Path, writes: Any) -> set[str]:
    """What ``writes`` has of its own goes behind the weights of ``reads``; of the rest it names the place.

    :return: the names of those.
    """
    shared: set[str] = set()
    places = {tensor.name: tensor for tensor in reads.initializer if tensor.external_data}
    for tensor in writes.initializer:
        if not tensor.external_data:
            continue
        content = _content(writing, tensor)
        same = places.get(tensor.name)
        if same is not None and same.dims == tensor.dims and _content(folder, same) == content:
            del tensor.external_data[:]
            tensor.external_data.extend(same.external_data)
            shared.add(tensor.name)
            continue
        location = next(iter(places.values())).external_data[0].value
        with (folder / location).open("ab") as data:
            data.write(bytes(-data.tell() % _ALIGNED))
            _put(tensor, location=location, offset=data.tell(), length=len(content))
            data.write(content)
    return shared


def _content(folder: Path, tensor: Any) -> bytes:
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / place["location"]).open("rb") as data:
        data.seek(int(place.get("offset", 0)))
        content: bytes = data.read(int(place["length"]))
    return content


def _put(tensor: Any, **place: Any) -> None:
    del tensor.external_data[:]
    for key, value in place.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
