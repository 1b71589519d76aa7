"""llama.cpp, the engine that people on small boards use today: the rival of ``engine.py``.

Set up as a good user would: a native build (what ``pip install llama-cpp-python`` makes), weights mapped,
batches of 512, the threads of the other side, flash attention on or off as told. It is driven through the
library's own functions, since the package's ``Llama`` class keeps every logit in Python. Run by
``engine.py`` in a process of its own; on its own it also makes the Q4_0 file:

    python benchmarks/llama.py quantize SOURCE.gguf OUT.gguf

It knows no bundle and nothing of edgeslm.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = "llama-cpp-python"
BATCH = 512
"""``n_batch`` and ``n_ubatch``; the second is llama.cpp's default too."""
_Q4_0 = 2
"""``LLAMA_FTYPE_MOSTLY_Q4_0`` of ``llama.h``."""


def installed_version() -> str | None:
    """Version of the package, or None when it isn't installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    return importlib.metadata.version(PACKAGE)


def make_q4_0(source: Path, out: Path) -> None:
    """Requantizes ``source`` to Q4_0, unless ``out`` is there already; half a file is never left.

    :raises RuntimeError: the library could not read or write it.
    """
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    command = [sys.executable, __file__, "quantize", str(source), str(part)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"llama.cpp could not make a Q4_0 file of {source}: {done.stderr[-500:]}")
    part.replace(out)


def quantize(source: Path, out: Path, threads: int) -> None:
    """The library's quantizer, allowed to start from quantized weights."""
    llama = _library()
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = _Q4_0
    parameters.nthread = threads
    parameters.allow_requantize = True
    code = llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters))
    if code != 0:
        raise RuntimeError(f"the quantizer said {code}")


class Engine:
    """A loaded GGUF with one context of ``room`` tokens."""

    def __init__(self, gguf: Path, threads: int, room: int, flash_attention: bool) -> None:
        self._llama = llama = _library()
        model = llama.llama_model_default_params()
        self._model = llama.llama_model_load_from_file(str(gguf).encode(), model)
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {gguf}")
        context = llama.llama_context_default_params()
        context.n_ctx = room
        context.n_batch = context.n_ubatch = BATCH
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = int(flash_attention)
        self._context = llama.llama_init_from_model(self._model, context)
        self._sampler = llama.llama_sampler_init_greedy()

    def run(self, ids: Sequence[int], count: int) -> dict[str, float]:
        """Milliseconds of the prompt with its first token, and of ``count - 1`` more."""
        llama = self._llama
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        started = time.perf_counter()
        for at in range(0, len(ids), BATCH):
            self._decode(ids[at : at + BATCH])
        token = llama.llama_sampler_sample(self._sampler, self._context, -1)
        prefilled = time.perf_counter()
        for _ in range(count - 1):
            self._decode([token])
            token = llama.llama_sampler_sample(self._sampler, self._context, -1)
        ended = time.perf_counter()
        prefill_ms = (prefilled - started) * 1000
        return {
            "prefill_ms": prefill_ms,
            "prefill_tokens": len(ids),
            "first_ms": prefill_ms,
            "decode_ms": (ended - prefilled) * 1000,
            "decode_tokens": count - 1,
        }

    def _decode(self, ids: Sequence[int]) -> None:
        tokens = (self._llama.llama_token * len(ids))(*ids)
        batch = self._llama.llama_batch_get_one(tokens, len(ids))
        if self._llama.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama.cpp could not decode")


def _library() -> Any:
    llama = importlib.import_module("llama_cpp")
    llama.llama_backend_init()
    return llama


def serve(engine: Engine) -> None:
    """Answers one JSON line for each on standard input: ``{"ids": [...], "tokens": n}``."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(engine.run(job["ids"], job["tokens"])), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="llama.cpp's side of benchmarks/engine.py.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("quantize", help="make a Q4_0 file of another GGUF")
    making.add_argument("source", type=Path)
    making.add_argument("out", type=Path)
    serving = commands.add_parser("serve", help="answer JSON lines on standard input")
    serving.add_argument("gguf", type=Path)
    serving.add_argument("--threads", type=int, required=True)
    serving.add_argument("--room", type=int, required=True, help="tokens of context")
    serving.add_argument("--flash-attention", choices=("on", "off"), required=True)
    args = parser.parse_args(argv)
    if args.command == "quantize":
        quantize(args.source, args.out, os.cpu_count() or 1)
        return
    serve(Engine(args.gguf, args.threads, args.room, args.flash_attention == "on"))


if __name__ == "__main__":
    main()
