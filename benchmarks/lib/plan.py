"""Estimates of ``edgeslm-export plan`` against a full-size model with random weights, exported and run.

    python benchmarks/speed/engine.py plan [qwen2.5-0.5b phi-3-mini ...] [--threads N] [--work DIR]

The checkpoint is written shard by shard in bfloat16, so that it needs the memory of one shard; its sizes are
the published ones, its tokenizer is the family's own. Board and bundle are measured in turns; the result is
the median of the ratios. With one thread both are processor time, which other programs hardly change. Prints
the machine, a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.machine import processor
from benchmarks.lib.paths import ROOT
from benchmarks.lib.processes import memory_of
from benchmarks.lib.prompts import prompt_of
from edgeslm.bundle.model_shape import read_shape
from edgeslm.bundle.performance import measure_board
from edgeslm.bundle.size_estimate import decode_tps, footprint, memory_bytes, prefill_tps

RUNS: Final = 2
NEW_TOKENS: Final = 32
SHARD_WEIGHTS: Final = 400_000_000

# Published values; ``family`` is the name under which tests/support/export/tiny_models.py has the tokenizer.
MODELS: Final[dict[str, dict[str, Any]]] = {
    "qwen2.5-0.5b": {
        "family": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "phi-3-mini": {
        "family": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": 2047,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "gemma-2-2b": {
        "family": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "mistral-7b": {
        "family": "mistral",
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32768,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}


def make_checkpoint(name: str, folder: Path) -> None:
    """A checkpoint of published sizes; written by a child, since torch keeps the memory it had."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        family = MODELS[name]["family"]
        command = [sys.executable, "-m", "tests.support.export.tiny_models", scratch, family]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        tiny = Path(scratch) / family
        ids = json.loads((tiny / "config.json").read_bytes())
        config = {key: value for key, value in MODELS[name].items() if key != "family"}
        config |= {key: ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        staged = Path(scratch) / "full"
        staged.mkdir()
        (staged / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
        subprocess.run([sys.executable, str(Path(__file__)), "--weights", str(staged)], check=True)
        for file in tiny.iterdir():
            if file.suffix != ".safetensors" and file.name != "config.json":
                shutil.copyfile(file, staged / file.name)
        staged.rename(folder)


def write_weights(folder: Path) -> None:
    """Random weights for the config in ``folder``, in shards of some 0.8 GB."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    generator = torch.Generator().manual_seed(7)
    shards: list[list[tuple[str, Any]]] = [[]]
    size = 0
    for name, parameter in model.named_parameters():
        if size + parameter.numel() > SHARD_WEIGHTS and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, parameter.shape))
        size += parameter.numel()
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name, shape in shard:
            is_norm = len(shape) == 1 and not name.endswith("bias")
            tensor = torch.ones(shape) if is_norm else torch.empty(shape, dtype=torch.bfloat16)
            if not is_norm:
                tensor.normal_(0, 0.02, generator=generator)
            tensors[name] = tensor.to(torch.bfloat16)
            places[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def measure(bundle: Path, threads: int, context: int) -> dict[str, float]:
    """Runs in a process of its own. The first run warms up; of the others the best count.

    Asking the same prompt again finds all but its last token in the cache, so its time is that of decoding.
    """
    from edgeslm.engine.calls import Generate
    from edgeslm.engine.worker.decoder import Decoder

    clock: Callable[[], float] = time.process_time if threads == 1 else time.perf_counter
    decoder = Decoder(bundle, threads)
    shuffle = random.Random(7)
    words = max(8, (context - NEW_TOKENS - 64) // 4)  # a word of a letter and two digits is three or four
    prefill, decode, tokens = [], [], 0
    for number in range(RUNS + 1):
        text = " ".join(f"x{shuffle.randrange(10, 100)}" for _ in range(words))
        prompt = prompt_of(f"Run {shuffle.random()}.", text)
        started = clock()
        output = decoder.generate(Generate(prompt, max_tokens=1))
        middle = clock()
        again = decoder.generate(Generate(prompt, max_tokens=NEW_TOKENS))
        if number:
            tokens = output.cost.prompt_tokens
            prefill.append(tokens / (middle - started))
            decode.append(max(1, again.cost.completion_tokens) / (clock() - middle))
    memory = memory_of()
    return {
        "prompt_tokens": tokens,
        "prefill_tps": max(prefill),
        "decode_tps": max(decode),
        "memory_bytes": int(memory.peak * 2**20),
    }


def check(name: str, work: Path, threads: int, context: int, recipe: str, rounds: int) -> dict[str, Any]:
    """Predicted and measured figures of one model; the folders in ``work`` are made if they are missing.

    A shared machine's memory is faster in one second than in the next, so each round measures board and
    bundle, and the median of the rounds' ratios counts.
    """
    from edgeslm_export.models.plan import formats_of
    from edgeslm_export.quantize.recipe import find_recipe

    checkpoint, bundle = work / name, work / f"{name}-{recipe}"
    if not bundle.is_dir():
        if not checkpoint.is_dir():
            make_checkpoint(name, checkpoint)
        export = [sys.executable, "-m", "edgeslm_export", "model", str(checkpoint), str(bundle)]
        subprocess.run([*export, "--recipe", recipe], check=True, stdout=sys.stderr)
    foot = footprint(read_shape(MODELS[name]), *formats_of(find_recipe(recipe)))
    child = [sys.executable, str(Path(__file__)), "--measure", str(bundle)]
    child += ["--threads", str(threads), "--context", str(context)]
    boards, predicted, seen = [], [], []
    for _ in range(rounds):
        board = measure_board(threads)
        measured = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
        tokens = int(measured["prompt_tokens"])
        boards.append(board)
        predicted.append(
            {
                "file_bytes": foot.file_bytes,
                "memory_bytes": memory_bytes(foot, context),
                "prefill_tps": prefill_tps(foot, board, tokens),
                "decode_tps": decode_tps(foot, board, tokens + NEW_TOKENS // 2),
            }
        )
        seen.append({"file_bytes": sum(file.stat().st_size for file in bundle.iterdir()), **measured})
    return {
        "model": name,
        "recipe": recipe,
        "context": context,
        "prompt_tokens": tokens,
        "board": {
            "read_gbs": median(board.read_gbs for board in boards),
            "int4_gflops": median(board.int4_gflops for board in boards),
            "int8_gflops": median(board.int8_gflops for board in boards),
            "busy": any(board.busy for board in boards),
        },
        "figures": {
            key: compare([one[key] for one in predicted], [one[key] for one in seen]) for key in predicted[0]
        },
    }


def compare(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Medians over the rounds, and the range of the ratios."""
    ratios = [said / seen for said, seen in zip(predicted, measured, strict=True)]
    return {
        "predicted": round(median(predicted), 1),
        "measured": round(median(measured), 1),
        "ratio": round(median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def table(result: dict[str, Any]) -> list[str]:
    board = result["board"]
    busy = ", other programs were running" if board["busy"] else ""
    lines = [
        f"{result['model']} {result['recipe']}, {result['prompt_tokens']} tokens of prompt, room for "
        f"{result['context']}; reads {board['read_gbs']:.1f} GB/s, {board['int4_gflops']:.0f} GFLOPS{busy}",
        f"{'':14} {'predicted':>10} {'measured':>10}  ratio",
    ]
    for key, figure in result["figures"].items():
        scale = 1e6 if key.endswith("bytes") else 1
        name = key.replace("_bytes", " MB").replace("_tps", " tok/s")
        values = f"{figure['predicted'] / scale:10.1f} {figure['measured'] / scale:10.1f}"
        ratio = f"{figure['ratio']:.2f} ({figure['lowest']:.2f} to {figure['highest']:.2f})"
        lines.append(f"{name:14} {values}  {ratio}")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Predicted against measured: size, memory and speed.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--rounds", type=int, default=3, help="median of so many (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="keeps checkpoints and bundles here, and finds them again")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.weights:
        write_weights(args.weights)
        return
    if args.measure:
        print(json.dumps(measure(args.measure, args.threads, args.context)))
        return
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"there is no model {unknown[0]!r}; choose of {', '.join(MODELS)}")
    versions = {name: version(name) for name in ("onnxruntime", "onnxruntime-genai")}
    machine = {"cpu": processor(), "threads": args.threads, **versions}
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="edgeslm-plan-") as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        results = []
        for name in args.models or ["qwen2.5-0.5b"]:
            results.append(check(name, work, args.threads, args.context, args.recipe, args.rounds))
            print("\n".join(["", *table(results[-1])]), flush=True)
    print(json.dumps({"machine": machine, "results": results}))


if __name__ == "__main__":
    main()
