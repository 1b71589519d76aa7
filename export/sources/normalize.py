"""Checkpoint normalization: writes config, tokenizer and weights of a source as the builder reads them.

Runs in the conversion's child process; imports transformers and torch.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeslm_export.sources.checkpoint import read_config, weight_files
from edgeslm_export.sources.gguf import HEAD, read_gguf_header, tied_copy

from edgeslm.bundle.text_config import MINISTRAL, QWEN3_5, served_context, text_config
from edgeslm.errors import ExportError

# Tokens that end a turn in the chat templates of the supported families. Many configurations name only the
# token that ends the text, which a chat model may never generate.
_TURN_ENDS = (
    *("<|im_end|>", "<end_of_turn>", "<|end|>", "<|eot_id|>", "<|end_of_turn|>", "<|end_of_role|>"),
    "<start_function_response>",  # FunctionGemma's, after its calls
)

SHARD_BYTES = 500_000_000


def make_checkpoint(source: Path, architecture: str, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> Any:
    """Writes ``config.json``, ``generation_config.json``, the tokenizer and the weights into ``folder``.

    Weights of a folder are linked; those of a GGUF are dequantized to float32. Tied embeddings stay tied,
    and two copies of one matrix become one.

    :return: transformers' tokenizer of the source.
    :raises ExportError: weights aren't finite, or the tokenizer can't be converted to a ``tokenizer.json``.
    """
    folder.mkdir(parents=True)
    tokenizer = (
        _from_gguf(source, architecture, folder, shard_bytes)
        if source.is_file()
        else _from_folder(source, folder)
    )
    _save_tokenizer(tokenizer, folder)
    if own := own_tokenizer_file(tokenizer, source):
        shutil.copyfile(own, folder / own.name)
    _name_turn_ends(tokenizer, folder)
    return tokenizer


def own_tokenizer_file(tokenizer: Any, source: Path) -> Path | None:
    """The source's ``tokenizer.json``, if it has every token of transformers' tokenizer.

    The file is preferred since the publisher tested it, whereas transformers 5 doesn't read the whole file:
    it rebuilds tokenizers of known classes (Qwen2, Gemma, GPT-2) from the vocabulary, with the class's own
    normalizer.
    """
    from tokenizers import Tokenizer

    own = source / "tokenizer.json"
    if not own.is_file():
        return None
    known = Tokenizer.from_file(str(own)).get_vocab(with_added_tokens=True)
    return own if tokenizer.get_vocab().items() <= known.items() else None


def _from_folder(source: Path, folder: Path) -> Any:
    from transformers import AutoTokenizer

    whole = read_config(source / "config.json")
    config = dict(text_config(whole))
    generation = source / "generation_config.json"
    if generation.is_file():
        _write_json(folder / "generation_config.json", json.loads(generation.read_bytes()))
    files = weight_files(source)
    if "text_config" in whole:  # whose two configs may disagree
        config["tie_word_embeddings"] = not any(map(_has_head, files))
    _complete(config)
    _write_json(folder / "config.json", config)
    files += [source / f"{files[0].name.split('-')[0]}{files[0].suffix}.index.json"] if len(files) > 1 else []
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
    return AutoTokenizer.from_pretrained(source, local_files_only=True)


def _has_head(file: Path) -> bool:
    """Whether a file of weights has an output head."""
    if file.suffix != ".safetensors":
        import torch

        names = list(torch.load(file, map_location="meta", weights_only=True, mmap=True))
    else:
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
    return any(name.endswith("lm_head.weight") for name in names)


def _from_gguf(source: Path, architecture: str, folder: Path, shard_bytes: int) -> Any:
    import torch
    import transformers

    release = _cache_gguf()
    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(source.parent, **where)
    _split_digits(tokenizer, source)
    config = transformers.AutoConfig.from_pretrained(source.parent, **where)
    model_class = getattr(transformers, architecture)
    model = model_class.from_pretrained(source.parent, config=config, dtype=torch.float32, **where)
    release()
    _tie_copies(model, source)
    _save_finite(model, source, folder, shard_bytes)
    fields = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        fields.pop(key, None)
    fields["architectures"] = [architecture]
    _complete(fields)
    _write_json(folder / "config.json", fields)
    return tokenizer


def _tie_copies(model: Any, source: Path) -> None:
    """Makes one matrix of embedding and head if the file holds two copies of it (``tied_copy``)."""
    better = tied_copy(source, read_gguf_header(source))
    if better is None:
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if better == HEAD:
        embedding.weight = head.weight
    else:
        head.weight = embedding.weight
    model.config.tie_word_embeddings = True


def _save_finite(model: Any, source: Path, folder: Path, shard_bytes: int) -> None:
    """Writes the model's weights as safetensors, in shards, because saving copies all tensors of a file. Tied
    embeddings are written once.

    :raises ExportError: a weight isn't finite.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"{source} is damaged: {name} holds numbers that aren't finite; download it again."
            )
    shards = split_torch_state_dict_into_shards(state, max_shard_size=shard_bytes)
    for file, names in shards.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        _write_json(
            folder / "model.safetensors.index.json",
            {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename},
        )


def _cache_gguf() -> Callable[[], None]:
    """Caches two functions of ``gguf``. Without caches, transformers opens the file for each step and builds
    the same map of names for each module, which takes half of the time of reading a small model.

    :return: a function that empties the caches, which hold the mapped file.
    """
    import gguf

    cached = {name: functools.cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in cached.items():
        setattr(gguf, name, function)

    def release() -> None:
        for function in cached.values():
            function.cache_clear()

    return release


def _split_digits(tokenizer: Any, source: Path) -> None:
    """Makes SmolLM's tokenizers split numbers into digits, a step that transformers omits.

    llama.cpp's ``smollm`` pre-tokenizer and the model's own ``tokenizer.json`` both split digits.
    """
    if read_gguf_header(source).metadata.get("tokenizer.ggml.pre") != "smollm":
        return
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _complete(config: dict[str, Any]) -> None:
    """Makes a config what the builder expects: the original context length of Phi-3 models without RoPE
    scaling, the class and context of Ministral 3, and the class of Qwen3.5."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if config.get("model_type") == "phi3" and "long_factor" not in rope:
        config["original_max_position_embeddings"] = config.get("max_position_embeddings", 4096)
    if config.get("architectures") == [QWEN3_5]:
        config["architectures"] = ["Qwen3_5ForConditionalGeneration"]  # the builder's name for the same graph
    if config.get("architectures") == [MINISTRAL]:
        config["architectures"] = ["MistralForCausalLM"]  # as the builder names the same graph
        if length := config.get("max_position_embeddings"):
            config["max_position_embeddings"] = served_context(config, length)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError("The tokenizer has no tokenizer.json and can't be converted to one; add the file.")
    if isinstance(tokenizer.chat_template, dict):
        templates = tokenizer.chat_template
        tokenizer.chat_template = templates.get("default") or next(iter(templates.values()))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)


def _name_turn_ends(tokenizer: Any, folder: Path) -> None:
    """Adds every end-of-turn token to the end tokens that ``generation_config.json`` lists."""
    file = folder / "generation_config.json"
    generation = json.loads(file.read_bytes()) if file.is_file() else {}
    named = generation.get("eos_token_id", read_config(folder / "config.json").get("eos_token_id"))
    ends = list(named) if isinstance(named, list) else [named] if named is not None else []
    vocabulary = tokenizer.get_vocab()
    candidates = [tokenizer.eos_token, *(end for end in _TURN_ENDS if end in (tokenizer.chat_template or ""))]
    for token in candidates:
        if token in vocabulary and vocabulary[token] not in ends:
            ends.append(vocabulary[token])
    if not ends:
        raise ExportError(
            "The model names no token that ends its text; set eos_token in tokenizer_config.json."
        )
    generation["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    _write_json(file, generation)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
