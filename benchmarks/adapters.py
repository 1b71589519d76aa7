"""What adapters cost: the graph that takes them against the plain one, and the memory of one and of ten.

    python benchmarks/adapters.py [--bundle DIR] [--rounds 5] [--turns 3] [--rank 16] [--json]

Each round is a process of its own that loads, in random order, the plain graph twice (its ratio to itself is
the error of the method), the graph that takes adapters without one and with one. All take turns (``turns``).
Adapters are random, on every linear layer. A graph of the empty branches alone is timed too: what they
take by themselves, whatever lies where. Table first, then one JSON line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from edgeslm_export import starter
from edgeslm_export.bundle.writer import write_manifest
from edgeslm_export.graph.lora_graph import GRAPH, load_branches, write_lora_graph
from edgeslm_export.models import adapter as export
from edgeslm_export.models.lora import WEIGHTS, Lora, Pair
from processes import memory_of
from turns import (
    CHUNK,
    NEW_TOKENS,
    PROMPT_TOKENS,
    fastest_ms,
    in_child,
    load_graph,
    make_generator,
    ratios_to,
    spread,
    take_turns,
)

from edgeslm.bundle.manifest import Bundle, load_bundle, short_digest

COUNTS: Final = (0, 1, 10)


def make_ready(bundle: Path, folder: Path) -> Path:
    """The bundle itself, or a copy with a graph that takes adapters when an older version made it."""
    manifest = load_bundle(bundle).manifest
    if manifest.graphs.adapters is not None:
        return bundle
    shutil.copytree(bundle, folder)
    write_lora_graph(folder)
    fields = manifest.model_dump(mode="json", exclude_none=True)
    del fields["files"]
    write_manifest(folder, {**fields, "graphs": {**fields["graphs"], "adapters": GRAPH}})
    return folder


def make_adapter(base: Bundle, folder: Path, rank: int, seed: int) -> Path:
    """A random adapter on each part of each matrix product."""
    rng = np.random.default_rng(seed)
    branches, heads = export.load_base(base), export.head_sizes(base)
    pairs = {}
    for branch in branches:
        parts = export.PACKED.get(branch.matrix, (branch.matrix,))
        for part in parts:
            outputs = heads.get(part, branch.outputs // len(parts)) if len(parts) > 1 else branch.outputs
            a = rng.standard_normal((rank, branch.inputs), np.float32) * np.float32(0.01)
            b = rng.standard_normal((outputs, rank), np.float32) * np.float32(0.01)
            block = "self_attn" if branch.block == "attn" else branch.block
            pairs[branch.layer, block, part] = Pair(a, b, 1.0)
    folder.mkdir()
    (folder / WEIGHTS).touch()  # its digest names the source
    lora = Lora(folder, pairs, "", "")
    values = export.arrange(lora, branches, heads)
    out = folder / "bundle"
    out.mkdir()
    export.write_bundle(out, lora, base, values)
    return out


# -- the child's side ------------------------------------------------------------------------------


def time_round(task: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians of the ratios to the plain graph, of one fresh process."""
    graphs = load_bundle(Path(task["bundle"])).manifest.graphs
    names = {
        "plain": graphs.generate,
        "again": graphs.generate,
        "empty": graphs.adapters,
        "rank": graphs.adapters,
    }
    order = list(names)
    random.shuffle(order)
    models = {name: load_graph(task["bundle"], str(names[name]), task["threads"]) for name in order}
    import onnxruntime_genai as og

    adapters = og.Adapters(models["rank"])
    adapters.load(task["adapter"], "one")
    generators = {name: make_generator(model) for name, model in models.items()}
    generators["rank"].set_active_adapter(adapters, "one")
    spent = take_turns(generators, task["turns"])
    generators.clear()
    return {**ratios_to("plain", spent), "ms": fastest_ms(spent["plain"])}


def time_branches(task: dict[str, Any]) -> dict[str, float]:
    """Milliseconds that all empty branches take by themselves: a tenth of the runs was faster.

    The caches are emptied before each run, as the weights of the other nodes do it between the branches.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort
    from onnx import TensorProto, helper

    graph = Path(task["bundle"]) / str(load_bundle(Path(task["bundle"])).manifest.graphs.adapters)
    nodes, values = [], []
    inputs: dict[str, int] = {}
    last: dict[int, str] = {}
    for branch in load_branches(graph):
        x, y, path = f"x{branch.inputs}", last.get(branch.outputs, f"y{branch.outputs}"), branch.path
        last[branch.outputs] = f"{path}.out"
        inputs |= {x: branch.inputs, f"y{branch.outputs}": branch.outputs}
        nodes += [
            helper.make_node("MatMul", [x, branch.a], [f"{path}.low"]),
            helper.make_node("MatMul", [f"{path}.low", branch.b], [f"{path}.added"]),
            helper.make_node("Add", [y, f"{path}.added"], [f"{path}.out"]),
        ]
        values += [(name, shape) for name, shape in ((branch.a, [branch.inputs, 0]), (branch.b, [0, 1]))]
    infos = [
        helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, "n", size]) for x, size in inputs.items()
    ]
    infos += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name, _ in values]
    empty = [helper.make_tensor(name, TensorProto.FLOAT, shape, []) for name, shape in values]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in last.values()]
    model = helper.make_model(
        helper.make_graph(nodes, "branches", infos, outs, empty),
        opset_imports=[helper.make_opsetid("", 22)],
        ir_version=10,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = task["threads"], 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    return {
        kind: _tenth_ms(session, {x: np.zeros((1, tokens, size), np.float32) for x, size in inputs.items()})
        for kind, tokens in (("prefill", CHUNK), ("decode", 1))
    }


def _tenth_ms(session: Any, feeds: dict[str, Any]) -> float:
    times, weights = [], np.ones(64_000_000 // 4, np.float32)
    for _ in range(200):
        weights.sum()
        started = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - started)
    return float(np.quantile(times, 0.1)) * 1000


def weigh(task: dict[str, Any]) -> dict[str, float]:
    """Memory of a process that has served 256 tokens with each of its adapters."""
    from edgeslm.engine.calls import Generate, Prompt, Text, Turn
    from edgeslm.engine.worker.decoder import Decoder

    adapters = [Path(path) for path in task["adapters"]]
    decoder = Decoder(Path(task["bundle"]), task["threads"], dict.fromkeys(adapters))
    prompt = Prompt((Turn("user", (Text("pump valve motor sensor " * 60),)),))
    for name in map(str, adapters) if adapters else [None]:
        decoder.forget()
        decoder.generate(Generate(prompt, 8, adapter=name))
    memory = memory_of()
    decoder.close()
    return {"pss_mb": memory.pss, "anonymous_mb": memory.anonymous, "peak_mb": memory.peak}


# -- the run ---------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_ready(options.bundle, folder / "base")
        base = load_bundle(path)
        adapters = [
            make_adapter(base, folder / f"a{seed}", options.rank, seed) for seed in range(max(COUNTS))
        ]
        file = adapters[0] / export.FILE
        task = {"bundle": str(path), "threads": options.threads, "turns": options.turns}
        rounds = [in_child(__file__, "time", {**task, "adapter": str(file)}) for _ in range(options.rounds)]
        alone = in_child(__file__, "branches", task)
        # Both as the fastest tenth: what other work on the machine takes is in neither.
        plain_ms = {kind: min(one["ms"][kind] for one in rounds) for kind in alone}
        memory = {
            str(count): in_child(
                __file__, "weigh", {**task, "adapters": [str(one) for one in adapters[:count]]}
            )
            for count in COUNTS
        }
        return {
            "bundle": base.manifest.name,
            "digest": short_digest(base.digest),
            "branches": len(load_branches(path / str(base.manifest.graphs.adapters))),
            "rank": options.rank,
            "adapter_mb": round(file.stat().st_size / 2**20, 2),
            "ratios": {
                name: {kind: spread([one[name][kind] for one in rounds]) for kind in ("prefill", "decode")}
                for name in ("again", "empty", "rank")
            },
            "branches_ms": {kind: round(ms, 3) for kind, ms in alone.items()},
            "plain_ms": {kind: round(ms, 2) for kind, ms in plain_ms.items()},
            "branches_share": {kind: round(alone[kind] / plain_ms[kind], 4) for kind in alone},
            "memory": {count: {key: round(mb, 1) for key, mb in m.items()} for count, m in memory.items()},
        }


def table(report: dict[str, Any]) -> str:
    names = {
        "again": "plain graph, loaded again",
        "empty": "takes adapters, none set",
        "rank": f"rank {report['rank']} on every layer",
    }
    lines = [f"{'time to the plain graph':28}{'prefill':>24}{'decode':>24}"]
    for key, name in names.items():
        cells = [report["ratios"][key][kind] for kind in ("prefill", "decode")]
        shown = [f"{c['median']:.3f} ({c['lowest']:.3f} to {c['highest']:.3f})" for c in cells]
        lines.append(f"{name:28}{shown[0]:>24}{shown[1]:>24}")
    for kind, size in (("prefill", f"{CHUNK} prompt tokens"), ("decode", "a new token")):
        share, ms, plain = (report[key][kind] for key in ("branches_share", "branches_ms", "plain_ms"))
        lines.append(
            f"empty branches alone: {ms:.2f} ms for {size}, {share:.1%} of the plain graph's {plain:.1f}"
        )
    lines += ["", f"{'adapters loaded':28}{'PSS MB':>12}{'anonymous MB':>14}{'peak MB':>12}"]
    for count, memory in report["memory"].items():
        cells = [memory[key] for key in ("pss_mb", "anonymous_mb", "peak_mb")]
        lines.append(f"{count:28}{cells[0]:12.0f}{cells[1]:14.0f}{cells[2]:12.0f}")
    lines.append(f"an adapter's file: {report['adapter_mb']} MB")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=starter.default_folder() / starter.MODEL)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="prompts a round (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--child", choices=("time", "branches", "weigh"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work = {"time": time_round, "branches": time_branches, "weigh": weigh}[options.child]
        print(json.dumps(work(json.load(sys.stdin))))
        return
    card = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads",
        "versions": {name: version(name) for name in ("edgeslm", "onnxruntime", "onnxruntime-genai")},
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
    }
    report = measure(options)
    if not options.json:
        print(f"{report['bundle']} {report['digest']}; {card['machine']}; {card['versions']}")
        print(table(report))
    print(json.dumps({"benchmark": "adapters", **card, **report}))


if __name__ == "__main__":
    main()
