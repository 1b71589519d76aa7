"""Board benchmark: memory bandwidth and speed of quantized matrix products. The function ``measure_board``
runs this module as a job.

Each product (``MatMulNBits`` with int8 activations) is repeated for 0.4 s, with one thread and with several.
A product of one row with weights larger than any cache is limited by memory bandwidth, like decoding. A
product of many rows with weights that fit into the cache is limited by arithmetic, like prefill. The job's
input is the number of threads. ``edgeslm.bundle.size_estimate`` applies the results to models.

The ONNX graph is encoded here by hand, since devices have no ``onnx`` package.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeslm.bundle.size_estimate import PREFILL_CHUNK
from edgeslm.engine.calls import BALANCED
from edgeslm.engine.worker.waiting import set_waiting
from edgeslm.ipc.job import serve

GROUP_SIZE = 64
_ROWS, _WIDE, _NARROW = 2048, 8192, 2048
_MATRICES = 8
"""Number of weight matrices in the benchmark. Each has 2048 x 8192 weights of 4 bits; all matrices together
take 75 MB, more than the CPU caches of the supported boards."""
_FLOAT, _UINT8, _INT = 1, 2, 2  # TensorProto.FLOAT, .UINT8, AttributeProto.INT


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _block(field: int, *parts: bytes) -> bytes:
    size = sum(map(len, parts))
    return b"".join((_varint(field << 3 | 2), _varint(size), *parts))


def _tensor(name: str, kind: int, values: npt.NDArray[Any]) -> bytes:
    """Encodes a TensorProto with its fields dims (number 1), data_type (2), name (8) and raw_data (9)."""
    dims = b"".join(_number(1, size) for size in values.shape)
    return b"".join((dims, _number(2, kind), _block(8, name.encode()), _block(9, values.tobytes())))


def _value(name: str, width: int) -> bytes:
    """Encodes the ValueInfoProto of a float tensor [rows, width]."""
    shape = _block(1, _block(2, b"rows")) + _block(1, _number(1, width))
    return _block(1, name.encode()) + _block(2, _block(1, _number(1, _FLOAT) + _block(2, shape)))


def encode_product(rows: int, columns: int, bits: int, count: int) -> bytes:
    """Encodes an ONNX model that computes ``count`` independent products of ``x`` [m, rows] (float32) with
    quantized matrices."""
    groups, parts = rows // GROUP_SIZE, []
    random = np.random.default_rng(7)
    settings = {"K": rows, "N": columns, "bits": bits, "block_size": GROUP_SIZE, "accuracy_level": 4}
    attributes = b"".join(
        _block(5, _block(1, name.encode()) + _number(3, value) + _number(20, _INT))
        for name, value in settings.items()
    )
    for number in range(count):
        weights = random.integers(0, 256, (columns, groups, GROUP_SIZE * bits // 8), np.uint8)
        scales = np.full(columns * groups, 0.01, np.float32)
        names = [f"w{number}", f"s{number}"]
        inputs = b"".join(_block(1, name.encode()) for name in ("x", *names))
        output = _block(2, f"y{number}".encode())
        kind = _block(4, b"MatMulNBits") + attributes + _block(7, b"com.microsoft")
        parts += [_block(1, inputs, output, kind), _block(12, _value(f"y{number}", columns))]
        parts += [_block(5, _tensor(names[0], _UINT8, weights)), _block(5, _tensor(names[1], _FLOAT, scales))]
    graph = _block(7, _block(2, b"gauge"), _block(11, _value("x", rows)), *parts)
    opsets = [
        _block(8, _block(1, name) + _number(2, number)) for name, number in ((b"", 17), (b"com.microsoft", 1))
    ]
    return b"".join((_number(1, 8), graph, *opsets))


def _product(
    rows: int, columns: int, bits: int, count: int, tokens: int, threads: int
) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    set_waiting(options, BALANCED)
    model = encode_product(rows, columns, bits, count)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(7).standard_normal((tokens, rows), np.float32)
    return lambda: session.run(None, {"x": x})


def best_seconds(run: Callable[[], object], threads: int, budget_s: float) -> float:
    """Calls ``run`` repeatedly for ``budget_s`` seconds, at least three times, and returns the shortest time
    in seconds. The shortest time is the most accurate, since other processes can only slow a call down.

    With one thread, the function measures the CPU time of this thread, which hardly depends on other
    processes.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    run()
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < 3 or time.perf_counter() < end:
        started = clock()
        run()
        times.append(clock() - started)
    return min(times)


def figures(threads: int, budget_s: float) -> dict[str, float]:
    """Measures the memory bandwidth (``read_gbs``) and the speed of matrix products with 4-bit and 8-bit
    weights (``int4_gflops``, ``int8_gflops``), for ``budget_s`` seconds each."""
    found = {}
    seconds = best_seconds(_product(_ROWS, _WIDE, 4, _MATRICES, 1, threads), threads, budget_s)
    found["read_gbs"] = _MATRICES * _ROWS * _WIDE * (4 / 8 + 4 / GROUP_SIZE) / seconds / 1e9
    for bits in (4, 8):
        product = _product(_ROWS, _NARROW, bits, 1, PREFILL_CHUNK, threads)
        operations = 2 * PREFILL_CHUNK * _ROWS * _NARROW
        found[f"int{bits}_gflops"] = operations / best_seconds(product, threads, budget_s) / 1e9
    return found


def measure(threads: int, budget_s: float = 0.4) -> dict[str, Any]:
    """Measures this machine with one thread and with ``threads`` threads; returns the better result of each
    measurement, and whether the machine was ``busy``.

    Other load slows down several threads more than one thread, since they synchronise with each other. If
    several threads are slower than one thread in any measurement, the machine counts as busy.
    """
    alone = figures(1, budget_s)
    together = figures(threads, budget_s) if threads > 1 else alone
    best = {name: round(max(alone[name], together[name]), 2) for name in alone}
    return {**best, "threads": threads, "busy": any(together[name] < alone[name] for name in alone)}


if __name__ == "__main__":
    serve(lambda threads, progress: measure(threads))
