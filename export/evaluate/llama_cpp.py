"""llama.cpp baseline: computes a GGUF file's logits on given tokens, if llama-cpp-python is installed.

Uses the library's low-level functions, default settings (half-precision cache) and flash attention.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NAME = "llama.cpp"
_BATCH = 512
"""Number of tokens that llama.cpp decodes in one call by default."""


def is_installed() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def gguf_logits(
    gguf: Path, sequences: Sequence[Sequence[int]], threads: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Logits [tokens, vocabulary] of each sequence, computed with an empty cache.

    :raises ExportError: llama.cpp can't load or run the file.
    """
    import numpy as np

    llama = importlib.import_module("llama_cpp")
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # decides what the C library prints
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(str(gguf).encode(), llama.llama_model_default_params())
    if not model:
        raise ExportError(f"{NAME} can't load {gguf}.")
    settings = llama.llama_context_default_params()
    settings.n_ctx = max(map(len, sequences))
    settings.n_batch = settings.n_ubatch = _BATCH
    settings.n_threads = settings.n_threads_batch = threads
    settings.flash_attn_type = 1
    context = llama.llama_init_from_model(model, settings)
    try:
        vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        for tokens in sequences:
            llama.llama_memory_clear(llama.llama_get_memory(context), True)
            steps = [(at, tokens[at : at + _BATCH]) for at in range(0, len(tokens), _BATCH)]
            yield np.concatenate([_step(llama, context, ids, at, vocabulary) for at, ids in steps])
    finally:
        llama.llama_free(context)
        llama.llama_model_free(model)


def _step(llama: Any, context: Any, ids: Sequence[int], at: int, vocabulary: int) -> npt.NDArray[np.float32]:
    """Decodes the tokens ``ids``, the first of which is at position ``at``. :return: their logits [tokens,
    vocabulary], a copy."""
    import numpy as np

    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for number, token in enumerate(ids):
        batch.token[number], batch.pos[number] = token, at + number
        batch.n_seq_id[number], batch.seq_id[number][0] = 1, 0
        batch.logits[number] = True
    code = llama.llama_decode(context, batch)
    llama.llama_batch_free(batch)
    if code != 0:
        raise ExportError(f"{NAME} could not decode.")
    logits = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(ids), vocabulary))
    return np.array(logits, np.float32)
