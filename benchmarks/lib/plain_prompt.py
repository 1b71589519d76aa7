"""Answers of a model that has the passages in its prompt and no gate, as with Ollama.

The baseline of ``grounded``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.knowledge.index.queries import Found
from edgeslm.tasks.grounding import sources_of

MOST_TOKENS: Final = 64
ROOM: Final = 2048
ASKED: Final = "Answer the question from these passages. If they don't answer it, say that you don't know."
_DECLINES: Final = re.compile(
    r"(?:do(?:es)? ?n[o']t|cannot|can't|not able to|unable to) "
    r"(?:know|provide|contain|mention|specify|say|answer|find|determine|give|include|explicitly|directly|have)"
    r"|no (?:information|mention|answer)"
    r"|(?:not|isn't|is n[o']t) (?:mentioned|provided|specified|given|stated|available|included|covered)",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Whether a free answer says that it is none."""
    return not text.strip() or _DECLINES.search(text) is not None


class PlainModel:
    """A GGUF in llama.cpp (``llama-cpp-python``) with the chat template of the file."""

    def __init__(self, gguf: Path, threads: int) -> None:
        llama = importlib.import_module("llama_cpp")
        self._model: Any = llama.Llama(
            str(gguf), n_ctx=ROOM, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def answer(self, question: str, passages: Sequence[Found]) -> str:
        shown = "\n\n".join(map(sources_of, passages))
        message = f"{ASKED}\n\n{shown}\n\nQuestion: {question}"
        said = self._model.create_chat_completion(
            [{"role": "user", "content": message}], max_tokens=MOST_TOKENS, temperature=0.0
        )
        return str(said["choices"][0]["message"]["content"])
