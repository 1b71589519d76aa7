"""Allow-list for ``genai_config.json``: the keys that a bundle may pass to onnxruntime-genai.

The runtime reads the file itself, and some keys load libraries, write files or name paths. Therefore only
harmless keys are allowed: those that the runtime's model builder writes for decoders on a CPU, and a few
others. The runtime's parser uses both values of a duplicate key, so duplicate keys are refused too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from edgeslm.errors import BundleError

FILE: Final = "genai_config.json"


class KeyCheck(Protocol):
    """Returns what is wrong with a key's value, or None if valid; ``files`` are the files of the bundle."""

    def __call__(self, value: Any, files: Collection[str], /) -> str | None: ...


Keys = Mapping[str, "KeyCheck | Keys"]

_MOST_ITEMS: Final = 4096
_WORD: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")
_TENSOR: Final = re.compile(r"[A-Za-z0-9_.:/-]{0,100}(?:%d[A-Za-z0-9_.:/-]{0,100})?")
"""Pattern of the allowed tensor names. A name may contain ``%d`` once, since the runtime formats the name
with ``snprintf`` and the number of a layer."""
_SHOWN: Final = 60


def _number(value: Any, files: Collection[str]) -> str | None:
    is_number = isinstance(value, int | float) and -(2**53) < value < 2**53
    return None if is_number else "is not a number"  # booleans count as numbers


def _numbers(value: Any, files: Collection[str]) -> str | None:
    items = value if isinstance(value, list) else [value]
    if len(items) > _MOST_ITEMS:
        return f"has more than {_MOST_ITEMS} items"
    return next((fault for one in items if one is not None and (fault := _number(one, files))), None)


def _word(value: Any, files: Collection[str]) -> str | None:
    fits = isinstance(value, str) and _WORD.fullmatch(value) and ".." not in value and value[0] != "/"
    return None if fits else "is not a plain word"


def _words(value: Any, files: Collection[str]) -> str | None:
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        return f"is not a list of at most {_MOST_ITEMS} words"
    return next((fault for one in value if (fault := _word(one, files))), None)


def _tensor(value: Any, files: Collection[str]) -> str | None:
    fits = isinstance(value, str) and _TENSOR.fullmatch(value)
    return None if fits else "is not the name of a tensor"


def _graph(value: Any, files: Collection[str]) -> str | None:
    if isinstance(value, str) and value.endswith(".onnx") and value in files:
        return None
    return "names no .onnx file of the manifest"


def _providers(value: Any, files: Collection[str]) -> str | None:
    if not isinstance(value, list) or len(value) > len(_PROVIDERS):
        return "is not a list of providers"
    for one in value:
        if not isinstance(one, dict):
            return "is not a list of providers"
        for name, options in one.items():
            allowed = _PROVIDERS.get(name)
            if allowed is None:
                return f"names the provider {name[:_SHOWN]!r}; allowed are {', '.join(_PROVIDERS)}"
            if not isinstance(options, dict):
                return f"has no options of the provider {name}, but {_kind(options)}"
            for option, setting in options.items():
                if option not in allowed:
                    return f"has the option {option[:_SHOWN]!r} of the provider {name}, which is not allowed"
                if fault := _word(setting, files) and _number(setting, files):
                    return f"has an option {option} that {fault}"
    return None


_PROVIDERS: Final[Mapping[str, frozenset[str]]] = {
    "cpu": frozenset(),
    "cuda": frozenset({"device_id", "enable_cuda_graph", "enable_skip_layer_norm_strict_mode"}),
}
_INPUTS: Final = (
    *("input_ids", "attention_mask", "position_ids", "past_key_names", "past_value_names"),
    *("past_names", "past_sequence_length", "total_sequence_length", "current_sequence_length"),
    *("past_conv_names", "past_recurrent_names"),
)
_OUTPUTS: Final = (
    *("logits", "present_key_names", "present_value_names", "present_names"),
    *("present_conv_names", "present_recurrent_names"),
)
_WINDOW: Final = (
    *("window_size", "pad_value", "slide_key_value_cache", "slide_inputs", "layers", "cache_slack"),
)
_SESSION: Final = (
    *("intra_op_num_threads", "inter_op_num_threads", "log_severity_level", "log_verbosity_level"),
    *("enable_cpu_mem_arena", "enable_mem_pattern"),
)
_DECODER: Final = ("head_size", "hidden_size", "num_attention_heads", "num_hidden_layers")
_TOKENS: Final = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("bot_token_id", "eot_token_id", "bor_token_id", "eor_token_id"),
)
_SEARCH: Final = (
    *("diversity_penalty", "do_sample", "early_stopping", "length_penalty", "max_length", "min_length"),
    *("no_repeat_ngram_size", "num_beams", "num_return_sequences", "past_present_share_buffer"),
    *("repetition_penalty", "temperature", "top_k", "top_p", "random_seed", "batch_size", "chunk_size"),
)

KEYS: Final[Keys] = {
    "model": {
        **dict.fromkeys(_TOKENS, _numbers),
        **dict.fromkeys(("context_length", "vocab_size"), _number),
        "type": _word,
        "decoder": {
            **dict.fromkeys((*_DECODER, "num_key_value_heads", "conv_cache_size"), _number),
            "filename": _graph,
            "session_options": {
                **dict.fromkeys(_SESSION, _number),
                "log_id": _word,
                "provider_options": _providers,
            },
            "inputs": dict.fromkeys(_INPUTS, _tensor),
            "outputs": dict.fromkeys(_OUTPUTS, _tensor),
            "sliding_window": dict.fromkeys(_WINDOW, _numbers),
            "layer_types": _words,
        },
    },
    "search": dict.fromkeys(_SEARCH, _number),
    "speculative": {"max_draft_tokens": _number},
}
"""Allowed keys, each with the function that checks its value."""


def check_genai_config(raw: bytes, files: Collection[str], where: str) -> None:
    """
    :param files: the paths that the manifest lists.
    :param where: the file's name in error messages.
    :raises BundleError: invalid JSON, or a key or value that isn't allowed; the error's text names the key.
    """
    try:
        config = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not JSON that is taken ({error})") from None
    if fault := _fault(config, KEYS, files, ""):
        raise BundleError(f"{where}: {fault}")


def _fault(value: Any, keys: KeyCheck | Keys, files: Collection[str], path: str) -> str | None:
    if callable(keys):
        fault = keys(value, files)
        return f"{path} {fault}" if fault else None
    if not isinstance(value, dict):
        return f"{path or 'all of it'} is {_kind(value)}, where an object belongs"
    for key, inner in value.items():
        below = f"{path}.{key[:_SHOWN]}" if path else key[:_SHOWN]
        if key not in keys:
            return f"the key {below!r} is not allowed, since a bundle may run no code and name no path by it"
        if fault := _fault(inner, keys[key], files, below):
            return fault
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")
