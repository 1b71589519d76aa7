"""Lower bound of a token's time, from its bytes and the memory bandwidth, and the measured time.

    python benchmarks/speed/engine.py token --bundle DIR [--threads 2] [--context 256] [--profile] [--json]

A token reads each weight once: all constants of the graph in the layout of the kernels (scales widened to
float32), except tables of which it takes a row (embedding, angles of positions); and the KV cache. The bound
is one pass over so many bytes at the rate of the fastest of numpy's reductions (``max`` of int64) over a
buffer that no cache holds. Where a processor cache is as large as the weights, as on servers, weights may
come faster: the rate of reading the same bytes again and again is printed too. Rates and tokens are measured
in turns.

``--profile`` shows where a token's time goes, by type of node. Prints the machine, tables, then one JSON
line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from edgeslm_export.graph.decode_graph import WRITES, keep_part

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.node_times import Run, mean, profiled
from benchmarks.lib.turns import load_graph, make_generator
from edgeslm.bundle.manifest import load_bundle, short_digest

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

WANTED: Final = 0.6
"""Share of the bound."""
STEPS: Final = 48
"""Tokens a round."""
READS: Final = 3
"""Of a buffer a round; the fastest counts."""
_VIEWS: Final = {"Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
"""Of constants these are computed at load."""
_ROWS: Final = {
    ("Gather", 0),
    *(("GatherBlockQuantized", place) for place in (0, 2, 3)),
    *(("GroupQueryAttention", place) for place in (7, 8)),
    *(("RotaryEmbedding", place) for place in (2, 3)),
}
"""Inputs of which a token takes a row."""
_RATES: Final = ("one_thread", "memory", "again")
_SHOWN: Final = 8
"""Types of nodes in the profile's table."""


def token_bytes(graph: GraphProto) -> Counter[str]:
    """Bytes of constants that one token reads, by the type of node that does."""
    from onnx.helper import tensor_dtype_to_np_dtype

    readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    for node in _nodes(graph):
        for place, name in enumerate(node.input):
            readers[name].append((node, place))

    def uses(name: str, size: int) -> Iterator[tuple[str, int]]:
        for node, place in readers[name]:
            if node.op_type in _VIEWS and place == 0:
                to = next((a.i for a in node.attribute if a.name == "to"), None)
                kept = size if to is None else tensor_dtype_to_np_dtype(to).itemsize
                yield from uses(node.output[0], kept)
            elif (node.op_type, place) not in _ROWS:
                yield node.op_type, size

    found: Counter[str] = Counter()
    for constant in graph.initializer:
        count = int(np.prod(constant.dims, dtype=np.int64))
        read = list(uses(constant.name, tensor_dtype_to_np_dtype(constant.data_type).itemsize))
        if read:
            kind, size = max(read, key=lambda use: use[1])
            found[kind] += count * size
    return found


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Those of its branches, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """The largest cache of the processor; 0 where the kernel doesn't say."""
    sizes = [file.read_text().strip() for file in root.glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes), default=0)


def read_rate(buffer: npt.NDArray[np.int64], threads: int) -> float:
    """Bytes a second, the best of a few passes over it, each thread over a part of its own."""
    parts = np.array_split(buffer, threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(READS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, buffer.nbytes / (time.perf_counter() - started))
    return best


def step_seconds(generator: Any, context: int, steps: int) -> list[float]:
    """Each of so many new tokens behind ``context`` others."""
    _read(generator, context)
    took = []
    for step in range(steps + 2):
        started = time.perf_counter()
        generator.generate_next_token()
        if step > 1:  # the first samples from the prompt's logits, the second wakes the threads
            took.append(time.perf_counter() - started)
    return took


def _read(generator: Any, context: int) -> None:
    generator.rewind_to(0)
    generator.append_tokens(np.random.default_rng(1).integers(100, 10_000, context).astype(np.int32))


def profile(args: argparse.Namespace, graph: str) -> Run:
    """A token's run, by type of node."""

    def work(generator: Any) -> None:
        step_seconds(generator, args.context, STEPS)

    length = args.context + STEPS + 2
    return mean(profiled(args.bundle, graph, args.threads, length, work)[-STEPS:])


def profile_table(run: Run, step_s: float, weights: Counter[str]) -> str:
    """The types of nodes that take most of a token, and the rate at which each reads its weights.

    :param step_s: of a token without the profiler.
    """
    lines = [f"{'profile: us a token':<36}{'us':>8}{'share':>8}{'GB/s':>8}"]
    ordered = sorted(run.nodes.items(), key=lambda node: -node[1])
    rest = sum(seconds for _, seconds in ordered[_SHOWN:])
    for kind, seconds in [*ordered[:_SHOWN], ("other nodes", rest), ("between nodes", run.between)]:
        rate = f"{weights[kind] / seconds / 1e9:8.1f}" if weights[kind] > 1e6 else ""
        lines.append(f"  {kind:<34}{1e6 * seconds:8.0f}{seconds / run.seconds:8.1%}{rate}")
    lines.append(f"  {'the run, with the profiler':<34}{1e6 * run.seconds:8.0f}")
    lines.append(f"  {'a token, without it':<34}{1e6 * step_s:8.0f}")
    return "\n".join(lines)


def take_turns(args: argparse.Namespace, graph: str, weight_bytes: int) -> dict[str, list[float]]:
    """Rates and tokens, a value for each round."""
    far = np.ones(max(2**28, 4 * cache_bytes()) // 8, np.int64)
    near = far[: weight_bytes // 8]
    model = load_graph(str(args.bundle), graph, args.threads)
    generator = make_generator(model, args.context + STEPS + 2)
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.rounds):
        for name, buffer, threads in zip(
            _RATES, (far, far, near), (1, args.threads, args.threads), strict=True
        ):
            seen[name].append(read_rate(buffer, threads))
        seen["step_s"].append(median(step_seconds(generator, args.context, STEPS)))
    del generator, model
    return seen


def figures(seen: Mapping[str, Sequence[float]], weight_bytes: int, cache_bytes: int) -> dict[str, Any]:
    """The bound, and what was reached of it: the median of the rounds."""
    token = weight_bytes + cache_bytes
    shares = [token / step / rate for step, rate in zip(seen["step_s"], seen["memory"], strict=True)]
    return {
        "weight_bytes": weight_bytes,
        "cache_bytes": cache_bytes,
        "gbs": {name: [round(edge(seen[name]) / 1e9, 1) for edge in (median, min, max)] for name in _RATES},
        "bound_tps": round(median(seen["memory"]) / token, 1),
        "reached_tps": round(1 / median(seen["step_s"]), 1),
        "share": round(median(shares), 3),
    }


def table(found: Mapping[str, Any], args: argparse.Namespace) -> str:
    rates = {name: f"{middle} GB/s ({low} to {high})" for name, (middle, low, high) in found["gbs"].items()}
    rows = {
        "weights a token": f"{found['weight_bytes'] / 1e6:.1f} MB",
        f"cache of {args.context} tokens": f"{found['cache_bytes'] / 1e6:.1f} MB",
        "memory, 1 thread": rates["one_thread"],
        f"memory, {args.threads} threads": rates["memory"],
        "weights again and again": rates["again"],
        "bound": f"{found['bound_tps']} tokens/s",
        "reached": f"{found['reached_tps']} tokens/s, {found['share']:.0%} of it (wanted: {WANTED:.0%})",
    }
    return "\n".join(f"{what:>24}  {value}" for what, value in rows.items())


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    import onnx

    bundle = load_bundle(args.bundle)
    graph = bundle.manifest.graphs.generate
    if graph is None:
        raise ValueError(f"{args.bundle} is a bundle of kind {bundle.manifest.kind}; name a decoder.")
    read = onnx.load(args.bundle / graph, load_external_data=False).graph
    keep_part(read, WRITES)
    weights = token_bytes(read)
    cache = bundle.manifest.kv_bytes_per_token * (args.context + STEPS // 2)
    seen = take_turns(args, graph, weights.total())
    found = figures(seen, weights.total(), cache)
    say(f"\n{table(found, args)}\n")
    if args.profile:
        run = profile(args, graph)
        say(profile_table(run, median(seen["step_s"]), weights) + "\n")
        nodes = {kind: round(1e6 * seconds, 1) for kind, seconds in run.nodes.items()}
        found |= {"nodes_us": nodes, "between_us": round(1e6 * run.between, 1)}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--context", type=int, default=256, help="tokens before (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="where a token's time goes")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    name = f"{args.bundle.name} {short_digest(load_bundle(args.bundle).digest)}"
    run_benchmark("cost_model", args, measure, bundle=name, load_before=round(os.getloadavg()[0], 2))
