"""Graph builder: child process that runs onnxruntime-genai's builder on quantized codes.

Runs as ``python -m edgeslm_export.graph.builder_worker`` with a task on standard input (see
``subprocess_job``). The task has the folder ``work`` (with ``checkpoint/`` and ``codes/``, see
``quantize.worker``), ``formats`` (bits and group size by matrix name), the builder's ``options``, and the
output folder ``out``. Only this module imports the builder.

The builder splits, fuses and reorders rows of matrices, depending on the model family. To track the rows,
this module gives the builder a model whose matrices hold only row numbers (views of one column, which take
little memory). When the builder writes a matrix product, the row numbers in the product's matrix determine
which codes it writes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from edgeslm_export.graph.builder_fixes import mended_builder
from edgeslm_export.graph.matmul_by_row import BY_ROW, write_product_by_row, write_scales
from edgeslm_export.graph.recurrent_state import serve_states
from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.packing import Quantized, load_codes
from edgeslm_export.quantize.recipe import EMBEDDING, HEAD
from edgeslm_export.sources.checkpoint import read_config

from edgeslm.bundle.tokenizer_class import generalize

_LAYER = re.compile(r"Reading layer (\d+)")
_ACCURACY_LEVEL = 4
"""Accuracy level of ``MatMulNBits`` that computes with int8 activations, the fast path on CPUs."""


class _Watcher(io.TextIOBase):
    """Replaces standard output and derives the progress from what the builder prints."""

    def __init__(self, reporter: Reporter, layers: int) -> None:
        self._reporter, self._layers = reporter, layers

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        sys.stderr.write(text)
        if match := _LAYER.search(text):
            self._reporter.progress(2 + int(match[1]), self._layers + 5, "writing layers")
        elif text.startswith("Saving ONNX model"):
            self._reporter.progress(self._layers + 2, self._layers + 5, "saving")
        return len(text)


def build(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes the graph to ``out``. :return: a dict with ``layers``, the model's number of layers."""
    work, out = Path(task["work"]), Path(task["out"])
    reporter.progress(0, 10, "loading libraries")
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    folder = work / "checkpoint"
    formats = {name: Format(*pair) for name, pair in task["formats"].items()}
    codes = dict(load_codes(work / "codes", formats))
    layers = int(read_config(folder / "config.json")["num_hidden_layers"])
    pairs = ["hf_token=false", *(f"{key}={value}" for key, value in task["options"].items())]
    cache = str(work / "cache")
    watcher = _Watcher(reporter, layers)
    with contextlib.redirect_stdout(watcher), _codes_for_weights(folder, codes), mended_builder():
        parsed = parse_extra_options(None, str(folder), str(out), "int4", "cpu", cache, pairs)
        create_model(None, str(folder), str(out), "int4", "cpu", cache, **parsed)
    serve_states(out)
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")  # the builder's may differ
    generalize(out / "tokenizer_config.json")
    return {"layers": layers}


@contextlib.contextmanager
def _codes_for_weights(folder: Path, codes: dict[str, Quantized]) -> Iterator[None]:
    """Patches the builder's base class, so that it writes ``codes`` instead of float weights."""
    # The builder adds its own folder to sys.path; its modules have no package prefix.
    Model = importlib.import_module("builders.base").Model  # noqa: N806

    rows = _Rows(codes)

    def load_weights(self: Any, _: str) -> Any:
        return _numbered_model(folder, rows)

    def make_matmul_nbits(self: Any, matmul: Any, basename: str, root_input: str, **options: Any) -> str:
        return _write_product(self, rows.find(matmul.weight), basename, root_input, **options)

    def make_embedding_lookup(self: Any, embedding: Any, basename: str, lm_head: Any) -> str:
        return _write_embedding(self, codes.get(EMBEDDING), codes[HEAD], basename)

    replaced = {
        function.__name__: function for function in (load_weights, make_matmul_nbits, make_embedding_lookup)
    }
    originals = {name: getattr(Model, name) for name in replaced}
    for name, function in replaced.items():
        setattr(Model, name, function)
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(Model, name, function)


class _Rows:
    """Numbers the rows of all matrices and finds codes by row numbers."""

    def __init__(self, codes: dict[str, Quantized]) -> None:
        self._codes = codes
        self._starts: dict[str, int] = {}
        total = 0
        for name, matrix in codes.items():
            self._starts[name] = total
            total += len(matrix.codes)
        if total >= 1 << 24:
            raise ValueError(f"{total} rows can't be numbered in float32")
        self._names = list(self._starts)
        self._firsts = np.array(list(self._starts.values()))

    def numbered(self, name: str, columns: int) -> Any:
        """A tensor [rows, columns] that has each row's number in all columns but takes the memory of one
        column."""
        import torch

        start, count = self._starts[name], len(self._codes[name].codes)
        return torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(count, columns)

    def find(self, weight: Any) -> Quantized:
        """The codes of a matrix that the builder assembled from rows of row numbers."""
        numbers = weight[:, 0].to("cpu").numpy().astype(np.int64)
        owners = np.searchsorted(self._firsts, numbers, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1), len(numbers)]
        pieces = []
        for start, end in itertools.pairwise(cuts):
            name = self._names[owners[start]]
            pieces.append((self._codes[name], numbers[start:end] - self._starts[name]))
        forms = {matrix.format for matrix, _ in pieces}
        if len(forms) != 1:
            raise ValueError(f"matrices of different formats are fused: {forms}")
        return Quantized(
            np.concatenate([matrix.codes[rows] for matrix, rows in pieces]),
            np.concatenate([matrix.scales[rows] for matrix, rows in pieces]),
            forms.pop(),
            pieces[0][0].smoothing,  # smoothing and reach belong to the input, which is the same for all
            pieces[0][0].reach,
        )


def _numbered_model(folder: Path, rows: _Rows) -> Any:
    """The checkpoint's model with row numbers in place of the matrices' weights; only the other, small
    parameters are loaded."""
    import torch
    from edgeslm_export.sources.layer_reader import LayeredModel

    layered = LayeredModel(folder, matrices=False)
    for name, module in {**layered.matrices(), EMBEDDING: layered.model.model.embed_tokens}.items():
        shape = module.weight.shape
        # The embedding is written from its codes; the builder only looks at its shape.
        value = torch.zeros(1, 1).expand(shape) if name == EMBEDDING else rows.numbered(name, shape[1])
        module.weight = torch.nn.Parameter(value, requires_grad=False)
    for number in range(len(layered.layers)):
        layered.load_layer(number)
    return layered.model


def _write_product(
    model: Any, matrix: Quantized, basename: str, root_input: str, *, logits: bool = False, **options: Any
) -> str:
    """Writes a matrix product. :return: the name of its last node."""
    output = "logits" if logits else None
    if "/linear_attn/" in basename:  # whose results the builder expects under the names of float products
        output = f"{basename}/output_0"
    sequence = options.get("seq_dim", "sequence_length")
    if matrix.format.by_row:
        return write_product_by_row(model, matrix, f"{basename}{BY_ROW}", root_input, sequence, output)
    return _write_product_in_groups(model, matrix, f"{basename}NBits", root_input, sequence, output)


def _write_product_in_groups(
    model: Any, matrix: Quantized, name: str, root_input: str, sequence: str, output: str | None
) -> str:
    """Writes a ``MatMulNBits`` node like the builder's, but with float16 scales."""
    weights, scales = _write_matrix(model, matrix, name[1:].replace("/", "."))
    output = output or f"{name}/output_0"
    rows, columns = matrix.codes.shape
    model.make_node(
        "MatMulNBits",
        inputs=[root_input, weights, scales],
        outputs=[output],
        name=name,
        domain="com.microsoft",
        accuracy_level=_ACCURACY_LEVEL,
        bits=matrix.format.bits,
        block_size=matrix.format.group_size,
        K=columns,
        N=rows,
    )
    shape = model.make_hidden_state_shape(seq_dim=sequence, last_dim=rows)
    model.make_value(output, model.io_dtype, shape=shape)
    return name


def _write_matrix(model: Any, matrix: Quantized, name: str) -> tuple[str, str]:
    """Writes codes and scales as initializers. :return: their names."""
    weights = f"{name}.qweight"
    model.make_initializer(matrix.pack(), weights)
    return weights, write_scales(model, matrix.scales, f"{name}.scales")


def _write_embedding(model: Any, own: Quantized | None, head: Quantized, basename: str) -> str:
    """Writes a ``GatherBlockQuantized`` node that reads the embedding's codes, or the head's codes if the
    embedding is tied to the head."""
    import onnx_ir as ir

    matrix = own or head
    if own is not None:
        weights, scales = _write_matrix(model, own, EMBEDDING)
    else:  # written with the head, later
        weights, scales = "lm_head.MatMulNBits.qweight", "lm_head.MatMulNBits.scales"
    form = matrix.format
    rows, columns = matrix.codes.shape
    padded = form.groups(columns) * form.group_size
    flat = f"{basename}/Reshape"
    shape = f"/model/constants/INT64/[{rows}, {padded * form.bits // 8}]"
    model.make_reshape(flat, [weights, shape], dtype=ir.DataType.UINT8, shape=[rows, padded * form.bits // 8])
    gather = f"{basename}/GatherBlockQuantized"
    output = f"{gather}/output_0"
    model.make_node(
        "GatherBlockQuantized",
        inputs=[f"{flat}/output_0", model.input_names["input_ids"], scales],
        outputs=[output],
        name=gather,
        domain="com.microsoft",
        bits=form.bits,
        block_size=form.group_size,
        gather_axis=0,
        quantize_axis=1,
    )
    if padded == columns:
        return output
    model.make_value(output, model.io_dtype, shape=model.make_hidden_state_shape(last_dim=padded))
    bounds = [f"/model/constants/INT64/[{bound}]" for bound in (0, columns, -1)]
    whole = model.make_hidden_state_shape()
    model.make_slice(f"{basename}/Slice", [output, *bounds], dtype=model.io_dtype, shape=whole)
    return f"{basename}/Slice/output_0"


if __name__ == "__main__":
    sys.exit(Reporter().run(build))
