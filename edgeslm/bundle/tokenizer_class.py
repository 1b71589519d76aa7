"""Class of a tokenizer in ``tokenizer_config.json``, which onnxruntime-genai reads for grammars.

With a class that the runtime doesn't know, such as ``Qwen3_5Tokenizer`` of transformers 5, each grammar
fails. ``tokenizer.json`` has the tokenizer itself, so a general class does for all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_GENERAL: Final = "PreTrainedTokenizerFast"
_KNOWN: Final = frozenset(
    [
        *("TokenizersBackend", "PreTrainedTokenizer", "GPT2Tokenizer", "LlamaTokenizer"),
        *("CodeLlamaTokenizer", "GemmaTokenizer", "Phi3Tokenizer", "Qwen2Tokenizer"),
        *("GPTNeoXTokenizer", "CodeGenTokenizer"),
    ]
)
"""Classes of decoders' tokenizers, without ``Fast``, that onnxruntime-genai 0.18 reads."""


def is_known(settings: Mapping[str, Any]) -> bool:
    """Whether the runtime knows the class. :param settings: the content of ``tokenizer_config.json``."""
    return str(settings.get("tokenizer_class", _GENERAL)).removesuffix("Fast") in _KNOWN


def generalize(file: Path) -> None:
    """Replaces a class that the runtime doesn't know in the file ``tokenizer_config.json``.

    :raises OSError: the file can't be read or written.
    """
    settings = json.loads(file.read_bytes())
    if not is_known(settings):
        file.write_text(json.dumps({**settings, "tokenizer_class": _GENERAL}, indent=2))
