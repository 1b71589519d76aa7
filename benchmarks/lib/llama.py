"""llama.cpp through llama-cpp-python: the baseline of ``engine.py llama`` and ``divergence.py``.

Set up for speed: a native build (as ``pip install llama-cpp-python`` makes it), weights mapped, batches of
512, as many threads as the other side, flash attention as told. It calls the functions of the library,
because the package's ``Llama`` class keeps every logit in Python. ``engine.py llama`` runs it as a child;
by itself it also quantizes:

    python benchmarks/lib/llama.py quantize SOURCE.gguf OUT.gguf --type Q4_0

``edgeslm_export.evaluate.llama_cpp`` computes its logits token by token.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PACKAGE = "llama-cpp-python"
BATCH = 512
"""``n_batch`` and ``n_ubatch``; the second is llama.cpp's default too."""
FILE_TYPES = {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
}
"""``LLAMA_FTYPE_MOSTLY_...`` of ``llama.h``: the mixtures that people download."""


def installed_version() -> str | None:
    """Version of the package, or None when it isn't installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    return importlib.metadata.version(PACKAGE)


def make_file(source: Path, out: Path, kind: str = "Q4_0", importance: Path | None = None) -> None:
    """Quantizes ``source`` to ``kind``, unless ``out`` is there already; half a file is never left.

    :param importance: what ``save_importance`` wrote.
    :raises RuntimeError: the library could not read or write it.
    """
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    command = [sys.executable, __file__, "quantize", str(source), str(part), "--type", kind]
    command += ["--importance", str(importance)] if importance else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"llama.cpp could not make a {kind} file of {source}: {done.stderr[-500:]}")
    part.replace(out)


Importance = Mapping[str, "npt.NDArray[np.float32]"]
"""Mean square of each input of a matrix, by its name in the GGUF: what ``llama-imatrix`` measures."""


def quantize(source: Path, out: Path, threads: int, kind: str, importance: Importance | None = None) -> None:
    """The library's quantizer, allowed to start from quantized weights.

    :raises RuntimeError: it failed.
    """
    llama = _library()
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[kind]
    parameters.nthread = threads
    parameters.allow_requantize = True
    if importance:
        floats = ctypes.POINTER(ctypes.c_float)
        entries = [
            (name.encode(), values.ctypes.data_as(floats), len(values)) for name, values in importance.items()
        ]
        parameters.imatrix = (llama.llama_model_imatrix_data * (len(entries) + 1))(
            *entries
        )  # ends with a null
    code = llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters))
    if code != 0:
        raise RuntimeError(f"the quantizer said {code}")


def save_importance(importance: Importance, file: Path) -> None:
    """Writes the ``.npz`` that ``quantize --importance`` takes."""
    import numpy as np

    np.savez(file, allow_pickle=False, **importance)


def _load_importance(file: Path) -> Importance:
    import numpy as np

    with np.load(file) as arrays:
        return {name: np.ascontiguousarray(arrays[name], np.float32) for name in arrays.files}


def tensor_types(gguf: Path) -> list[str]:
    """The type of each tensor of two dimensions. A width that the blocks of a type don't divide gets another
    one than the file is named for."""
    from gguf import GGUFReader

    return [tensor.tensor_type.name for tensor in GGUFReader(gguf).tensors if len(tensor.shape) > 1]


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
        self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._held: list[int] = []

    def run(self, ids: Sequence[int], count: int) -> dict[str, float]:
        """Milliseconds of the prompt with its first token, and of ``count - 1`` more."""
        llama = self._llama
        self.clear()
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

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """Logits [vocabulary] after the last token; reads again only what the call before didn't begin
        with."""
        import numpy as np

        same = 0
        while same < min(len(ids) - 1, len(self._held)) and ids[same] == self._held[same]:
            same += 1
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_seq_rm(memory, 0, same, -1)
        for at in range(same, len(ids), BATCH):
            self._decode(ids[at : at + BATCH])
        self._held = list(ids)
        last = self._llama.llama_get_logits_ith(self._context, -1)
        return np.array(np.ctypeslib.as_array(last, (self._vocabulary,)), np.float64)

    def clear(self) -> None:
        """Empties the cache."""
        self._held = []
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)

    def close(self) -> None:
        """Frees context and weights."""
        self._llama.llama_sampler_free(self._sampler)
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    def _decode(self, ids: Sequence[int]) -> None:
        tokens = (self._llama.llama_token * len(ids))(*ids)
        batch = self._llama.llama_batch_get_one(tokens, len(ids))
        if self._llama.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama.cpp could not decode")


def _library() -> Any:
    llama = importlib.import_module("llama_cpp")
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # the package prints what the library says by this
    llama.llama_backend_init()
    return llama


def serve(engine: Engine) -> None:
    """Answers one JSON line for each on standard input: ``{"ids": [...], "tokens": n}``."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(engine.run(job["ids"], job["tokens"])), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="llama.cpp's side of benchmarks/speed/engine.py llama.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("quantize", help="make a smaller GGUF of another")
    making.add_argument("source", type=Path)
    making.add_argument("out", type=Path)
    making.add_argument("--type", choices=FILE_TYPES, default="Q4_0")
    making.add_argument(
        "--importance", type=Path, help="an .npz with the mean square of each matrix's inputs"
    )
    serving = commands.add_parser("serve", help="answer JSON lines on standard input")
    serving.add_argument("gguf", type=Path)
    serving.add_argument("--threads", type=int, required=True)
    serving.add_argument("--room", type=int, required=True, help="tokens of context")
    serving.add_argument("--flash-attention", choices=("on", "off"), required=True)
    args = parser.parse_args(argv)
    if args.command == "quantize":
        importance = _load_importance(args.importance) if args.importance else None
        quantize(args.source, args.out, os.cpu_count() or 1, args.type, importance)
        return
    serve(Engine(args.gguf, args.threads, args.room, args.flash_attention == "on"))


if __name__ == "__main__":
    main()
