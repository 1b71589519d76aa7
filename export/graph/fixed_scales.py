"""Fixed activation scales: reduces an integer product to two nodes if one scale serves all tokens.

Most of the nodes that ``matmul_by_row`` writes around an integer product compute a scale for each token. For
a message of a few words, these nodes take more time than the layer norms. If calibration found that one scale
serves all tokens, the plain and the scoring graph use that scale, as in SmoothQuant's static variant (Xiao et
al., 2023, arXiv 2211.10438). Smoothing factors are folded into an earlier multiplication: a norm's weights,
or the scales of the product that computes the gated values.

The graph for adapters isn't changed: adapters may produce larger activations than calibration saw.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.graph.external_data import append, file_of, values_of
from edgeslm_export.graph.lora_graph import Product, find_products
from edgeslm_export.graph.matmul_by_row import INTEGERS, REACH, smoothed_source, smooths
from edgeslm_export.graph.onnx_edit import makers_of, read_by, replace
from edgeslm_export.graph.score_graph import GRAPH as SCORE
from edgeslm_export.quantize.formats import STEPS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_GRAPHS: Final = ("model.onnx", SCORE)
_NORM_WEIGHTS: Final = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
"""For each norm operator, the index of the weights among its inputs. Norms with a bias aren't listed, since
the bias would need smoothing too."""
_SCALES: Final = 3
"""Index of the weights' scales among the inputs of an integer product."""

Share = Callable[[str, "Floats"], Any]
"""Function that takes a tensor's name and values and returns the tensor; if the name is new, the function
first appends the values to the graph's data file."""


def fix_scales(folder: Path) -> None:
    """Applies fixed scales to the plain and the scoring graph in a bundle's folder, and appends new weights
    to the graphs' data file."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    known: dict[str, Any] = {}
    for name in _GRAPHS:
        if not (folder / name).exists():
            continue
        model = onnx.load(folder / name, load_external_data=False)
        graph = model.graph
        if not any(node.op_type == INTEGERS for node in graph.node):
            return
        location = file_of(graph)

        def share(name: str, values: Floats, location: str = location) -> Any:
            if name not in known:
                known[name] = numpy_helper.from_array(np.asarray(values, np.float32), name)
                append(folder, location, known[name], known[name].raw_data)
            return known[name]

        for product in find_products(model):
            if product.weighing.op_type == INTEGERS:
                _fix(graph, product, share)
        _Smoothing(folder, model, share).fold()
        _drop_unused(graph)
        onnx.save(model, folder / name)


def _fix(graph: Any, product: Product, share: Share) -> None:
    """Gives a product one scale for all tokens, if calibration found one."""
    import numpy as np

    makers = makers_of(graph)
    codes = makers[product.weighing.input[0]]
    reach = {entry.key: entry.value for entry in codes.metadata_props}.get(REACH)
    if reach is None:
        return
    step = f"{codes.name}/step"
    if codes.input[1] != step:  # otherwise another product with the same input did it
        graph.initializer.append(share(step, np.array(float(reach) / STEPS, np.float32)))
        codes.input[0], codes.input[1] = smoothed_source(codes.output[0], makers), step
    last, integers = product.last, product.weighing
    integers.input[2] = step
    name, output = last.name, last.output[0]
    last.name, last.output[0] = f"{name}/unused", f"{output}/unused"
    integers.name, integers.output[0] = name, output


class _Smoothing:
    """Removes smoothing nodes by folding their factors into earlier weights."""

    def __init__(self, folder: Path, model: Any, share: Share) -> None:
        self._folder, self._graph, self._share = folder, model.graph, share
        self._tensors = {tensor.name: tensor for tensor in self._graph.initializer}
        self._products = {one.last.output[0]: one.weighing for one in find_products(model)}

    def fold(self) -> None:
        for node in [node for node in self._graph.node if smooths(node)]:
            value, factors = node.input
            readers = [other for other in self._graph.node if value in other.input]
            if len(readers) == 1 and self._take_over(makers_of(self._graph)[value], value, factors):
                for other in self._graph.node:
                    other.input[:] = [value if name == node.output[0] else name for name in other.input]

    def _take_over(self, maker: Any, value: str, factors: str) -> bool:
        """Folds ``factors`` into the node that produces ``value``. :return: whether that was possible."""
        wanted = self._values(factors)
        place = _NORM_WEIGHTS.get(maker.op_type)
        if place is not None and maker.output[0] == value and maker.input[place] in self._tensors:
            self._put(maker, place, self._values(maker.input[place]) * wanted)
            return True
        return maker.op_type == "Mul" and any(self._scale(part, wanted) for part in reversed(maker.input))

    def _scale(self, part: str, factors: Floats) -> bool:
        """Folds ``factors`` into the scales of the integer product whose output is ``part`` or is split into
        ``part`` and other values. :return: false if no integer product computes ``part``, or if several nodes
        read ``part``."""
        import numpy as np

        maker = makers_of(self._graph).get(part)
        if maker is None or sum(part in node.input for node in self._graph.node) != 1:
            return False
        is_split = maker.op_type == "Split"
        integers = self._products.get(maker.input[0] if is_split else part)
        if integers is None or integers.op_type != INTEGERS:
            return False
        parts = list(maker.output) if is_split else [part]
        scales = self._values(integers.input[_SCALES])
        if len(scales) != len(parts) * len(factors):
            return False
        start = parts.index(part) * len(factors)
        whole = np.ones_like(scales)
        whole[start : start + len(factors)] = factors
        self._put(integers, _SCALES, scales * whole)
        return True

    def _values(self, name: str) -> Floats:
        maker = makers_of(self._graph).get(name)
        if maker is not None and maker.op_type == "Cast":  # scales are stored as float16
            name = maker.input[0]
        values: Floats = values_of(self._folder, self._tensors[name]).astype("float32")
        return values

    def _put(self, node: Any, place: int, values: Floats) -> None:
        name = f"{node.name}/smoothed"
        self._tensors[name] = self._share(name, values)
        self._graph.initializer.append(self._tensors[name])
        node.input[place] = name


def _drop_unused(graph: Any) -> None:
    """Removes nodes and weights that nothing reads any more."""
    used = {value.name for value in graph.output}
    kept: list[Any] = []
    for node in reversed(graph.node):
        if used & set(node.output):
            used |= read_by(node)
            kept.insert(0, node)
    made = {name for node in kept for name in node.output}
    replace(
        graph,
        kept,
        [tensor for tensor in graph.initializer if tensor.name in used],
        [value for value in graph.value_info if value.name in made],
    )
