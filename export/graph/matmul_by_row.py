"""Integer matrix products: writes ONNX nodes that use a scale for each row of weights and for each token.

``MatMulIntegerToFloat`` is two to four times as fast as ``MatMulNBits`` for the few tokens of a message
(``benchmarks/LOG.md``), but takes one scale for all activations. So each token's activations are divided by
their largest magnitude before the product, and the result is multiplied by that magnitude (as in LLM.int8(),
Dettmers et al., 2022, arXiv 2208.07339, and ZeroQuant's token-wise quantization). A token's result doesn't
depend on other tokens. Inputs are smoothed first if the matrix has smoothing factors (SmoothQuant, Xiao et
al., 2023, arXiv 2211.10438). If one scale can serve all tokens, the input's largest magnitude is stored in
the metadata of the node that quantizes the input, where ``fixed_scales`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.quantize.formats import STEPS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from edgeslm_export.quantize.packing import Quantized

BY_ROW: Final = "ByRow"
"""Suffix of the name of a product's last node."""
INTEGERS: Final = "MatMulIntegerToFloat"
REACH: Final = "edgeslm.reach"
"""Metadata key for the largest magnitude of a product's input. The node that quantizes the input has this key
only if one scale can serve all tokens."""
_PRODUCT: Final = "Integers"
_SMOOTH: Final = "Smooth"
_SHARES: Final = "Shares"
_STEP: Final = f"/model/constants/FLOAT/{1 / STEPS}"
_MIDDLE: Final = "/model/constants/UINT8/128"
_LAST_AXIS: Final = "/model/constants/INT64/[-1]"


def write_product_by_row(
    model: Any, matrix: Quantized, name: str, source: str, sequence: str, output: str | None
) -> str:
    """Adds the product's nodes to a model of onnxruntime-genai's builder. :return: the name of the last node.

    :param source: the input's name; products with the same input share the nodes that quantize it.
    :param sequence: name of the input's token dimension. :param output: name of the result; by default
        derived from ``name``.
    """
    import numpy as np

    rows = matrix.codes.shape[0]
    weights = name[1:].replace("/", ".")
    codes, largest = _write_codes(model, source, matrix, sequence)
    model.make_initializer(np.ascontiguousarray(matrix.codes.T), f"{weights}.qweight")
    scales = write_scales(model, matrix.scales.reshape(-1), f"{weights}.scales")
    shape = model.make_hidden_state_shape(seq_dim=sequence, last_dim=rows)
    inputs = [codes, f"{weights}.qweight", _STEP, scales, _MIDDLE]
    product = _add(model, INTEGERS, inputs, f"{name}/{_PRODUCT}", shape, domain="com.microsoft")
    _add(model, "Mul", [product, largest], name, shape, output=output)
    return name


def _write_codes(model: Any, source: str, matrix: Quantized, sequence: str) -> tuple[str, str]:
    """Adds the nodes that compute the input's codes and each token's largest magnitude. If an earlier product
    with the same input added them, the builder skips them. :return: the names of these two values."""
    import numpy as np
    import onnx_ir as ir

    place, smoothing = f"{source.removesuffix('/output_0')}/{BY_ROW}", matrix.smoothing
    whole = model.make_hidden_state_shape(seq_dim=sequence, last_dim=matrix.codes.shape[1])
    if smoothing is not None:
        factors = f"{place[1:].replace('/', '.')}.smoothing"
        if factors not in model.values:
            model.make_initializer((1 / smoothing).astype(np.float32), factors)
        source = _add(model, "Mul", [source, factors], f"{place}/{_SMOOTH}", whole)
    sizes = _add(model, "Abs", [source], f"{place}/Sizes", whole)
    each = model.make_hidden_state_shape(seq_dim=sequence, last_dim=1)
    largest = _add(model, "ReduceMax", [sizes, _LAST_AXIS], f"{place}/Largest", each, keepdims=1)
    # A token of zeros gives 0 / 0; whatever codes that becomes, the product is multiplied by zero.
    shares = _add(model, "Div", [source, largest], f"{place}/{_SHARES}", whole)
    codes = _add(
        model, "QuantizeLinear", [shares, _STEP, _MIDDLE], f"{place}/Codes", whole, dtype=ir.DataType.UINT8
    )
    if matrix.reach is not None:
        node: Any = model.make_value(codes).producer()
        node.metadata_props[REACH] = repr(matrix.reach)
    return codes, largest


def source_of_codes(codes: str, makers: Mapping[str, Any]) -> str:
    """The value that was smoothed, scaled and rounded to ``codes``.

    :param makers: see ``onnx_edit.makers_of``.
    """
    source = smoothed_source(codes, makers)
    smooth: Any = makers.get(source)
    return str(smooth.input[0]) if smooths(smooth) else source


def smoothing_of(codes: str, makers: Mapping[str, Any]) -> str | None:
    """Name of the smoothing factors of an input; None if it isn't smoothed."""
    smooth: Any = makers.get(smoothed_source(codes, makers))
    return str(smooth.input[1]) if smooths(smooth) else None


def smoothed_source(codes: str, makers: Mapping[str, Any]) -> str:
    """The input that ``codes`` were made from, after smoothing (if any) and before each token is divided by
    its largest magnitude."""
    read: str = makers[codes].input[0]
    shares: Any = makers.get(read)
    has_own_scales = shares is not None and shares.name.endswith(f"/{BY_ROW}/{_SHARES}")
    return str(shares.input[0]) if has_own_scales else read


def smooths(node: Any) -> bool:
    """Whether ``node`` is a smoothing node."""
    return node is not None and node.name.endswith(f"/{BY_ROW}/{_SMOOTH}")


def write_scales(model: Any, scales: npt.NDArray[np.float16], name: str) -> str:
    """Writes float16 scales and a Cast to float32 for the kernels; the runtime folds the Cast when it loads
    the graph."""
    import onnx_ir as ir

    model.make_initializer(scales, f"{name}.float16")
    model.make_node(
        "Cast", inputs=[f"{name}.float16"], outputs=[name], name=f"/{name}/Cast", to=ir.DataType.FLOAT
    )
    model.make_value(name, ir.DataType.FLOAT, shape=list(scales.shape))
    return name


def _add(
    model: Any,
    kind: str,
    inputs: list[str],
    name: str,
    shape: list[Any],
    *,
    output: str | None = None,
    dtype: Any = None,
    **attributes: Any,
) -> str:
    """Adds a node. :return: the name of its output."""
    output = output or f"{name}/output_0"
    model.make_node(kind, inputs=inputs, outputs=[output], name=name, **attributes)
    model.make_value(output, dtype or model.io_dtype, shape=shape)
    return output
