"""Dequantized model: puts a decoder bundle's dequantized weights into its transformers model.

Adapters are then trained on the weights that a device runs, including the quantization error. The graph's
quantized products are found by their nodes' names; other weights stay as in the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.graph.external_data import values_of
from edgeslm_export.graph.lora_graph import find_products
from edgeslm_export.graph.matmul_by_row import INTEGERS, smoothing_of
from edgeslm_export.graph.onnx_edit import makers_of
from edgeslm_export.models.adapter import PACKED, head_sizes
from edgeslm_export.quantize.formats import ROW, Format
from edgeslm_export.quantize.packing import Quantized, unpack

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_BLOCKS = {"attn": "self_attn", "mlp": "mlp"}
_MOST_CHANGED = 0.5
"""Maximum relative error of a matrix. Four-bit quantization causes an error below 0.2, whereas the weights of
another model differ by about 1."""


def fill_stored(model: Any, bundle: Path) -> int:
    """Replaces the matrices of ``model``'s layers by the bundle's matrices. :return: the number of matrices.

    :raises ExportError: the bundle was made from another model.
    """
    import numpy as np
    import torch

    modules = dict(model.named_modules())
    parts = dict(_parts(bundle))
    filled = 0
    for name, module in modules.items():
        if not isinstance(module, torch.nn.Linear) or ".layers." not in name:
            continue
        place, _, matrix = name.rpartition(".")
        found = [parts.get(f"{place}.{part}") for part in PACKED.get(matrix, (matrix,))]
        values = [value for value in found if value is not None]
        if len(values) != len(found):
            continue
        weights = np.concatenate(values)
        own = module.weight.detach().numpy()
        if weights.shape != own.shape or not _is_near(weights, own):
            raise ExportError(
                f"{bundle} was made of another model than this checkpoint: {name} differs; name its own."
            )
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weights))
        filled += 1
    return filled


def _is_near(stored: Floats, own: Floats) -> bool:
    import numpy as np

    return bool(np.linalg.norm(stored - own) <= _MOST_CHANGED * np.linalg.norm(own))


def _parts(bundle: Path) -> Iterator[tuple[str, Floats]]:
    """The dequantized values of each matrix, and the matrix's name in the checkpoint without ``.weight``."""
    import onnx

    loaded = load_bundle(bundle)
    sizes = head_sizes(loaded)
    # In the graph for adapters no smoothing is folded into norms or scales.
    graph = loaded.manifest.graphs.adapters or loaded.manifest.graphs.generate
    if graph is None:
        raise ExportError(f"{bundle} has no graph to generate with; name a decoder's bundle.")
    model = onnx.load(bundle / graph, load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    # Scales are stored as float16 and cast by the graph.
    widened = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    makers = makers_of(model.graph)

    def values(name: str) -> Any:
        return values_of(bundle, tensors[widened.get(name, name)])

    for product in find_products(model):
        node, branch = product.weighing, product.branch
        if node.op_type == "MatMulNBits":
            if len([name for name in node.input if name]) > 3:
                raise ExportError(f"{bundle} is quantized with zero points, which can't be trained on.")
            numbers = {attribute.name: attribute.i for attribute in node.attribute}
            form = Format(numbers["bits"], numbers["block_size"])
            matrix = unpack(values(node.input[1]), values(node.input[2]), form, branch.inputs)
        elif node.op_type == INTEGERS:
            factors = smoothing_of(node.input[0], makers)
            smoothing = None if factors is None else 1 / values(factors)
            scales = values(node.input[3])[:, None]
            matrix = Quantized(values(node.input[1]).T, scales, Format(8, ROW), smoothing)
        else:
            continue
        weights = matrix.weights()
        place, start = f"model.layers.{branch.layer}.{_BLOCKS[branch.block]}", 0
        names = PACKED.get(branch.matrix, (branch.matrix,))
        for name in names:
            size = sizes.get(name, branch.outputs // len(names)) if len(names) > 1 else branch.outputs
            yield f"{place}.{name}", weights[start : start + size]
            start += size
