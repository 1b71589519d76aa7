"""Tiny models with random weights, written by a child process, or made in place with ``decoder``.

``python -m tests.support.export.tiny_models OUT NAME...`` writes a folder or file for each name to OUT:
``plain`` (a Llama with a byte-level vocabulary), ``plain.gguf`` (the same in Q8_0), ``bert`` (an encoder),
those of ``tiny_encoders``, and the families of ``FAMILIES`` with their real tokenizers and templates.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.support.export import tiny_encoders

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FAMILIES = ("llama", "phi3", "gemma2", "mistral", "qwen2", "qwen3")
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def byte_vocabulary() -> list[str]:
    """A byte-level vocabulary: special tokens and 256 bytes."""
    from tokenizers import pre_tokenizers

    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]


def make(name: str, out: Path, tokenizers: Path | None) -> None:
    import torch

    torch.manual_seed(7)
    if name == "plain":
        write_decoder(out / name, "llama", tie_word_embeddings=True)
    elif name == "plain.gguf":
        write_gguf(out / name, "Q8_0")
    elif name == "bert":
        _bert(out / name)
    elif name in tiny_encoders.ENCODERS:
        tiny_encoders.make(name, out / name)
    else:
        assert tokenizers is not None
        _family(name, out / name, tokenizers)


def byte_tokenizer() -> Any:
    """A transformers tokenizer with that vocabulary and the template ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(byte_vocabulary())}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def write_decoder(folder: Path, family: str, **settings: Any) -> None:
    """A checkpoint of a family with random weights and a byte-level vocabulary: with a real one an export
    takes twice as long. ``settings`` override its configuration."""
    tokenizer = byte_tokenizer()
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    decoder(family, **tokens, **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_gguf(file: Path, kind: str, copy: str | None = None) -> None:
    """A Llama with all matrices quantized to ``kind``, a type of ggml.

    :param copy: the type of a second copy of the tied embedding, for the head.
    """
    import gguf
    import numpy as np
    from gguf.quants import quantize

    tokens = [*byte_vocabulary(), "ab"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHATML)
    random = np.random.default_rng(7)

    def matrix(name: str, rows: int, columns: int) -> Any:
        values = random.standard_normal((rows, columns), np.float32) * 0.05
        add(name, values, kind)
        return values

    def add(name: str, values: Any, kind: str) -> None:
        ggml = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(values, ggml), raw_dtype=ggml)

    width, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    embedding = matrix("token_embd.weight", len(tokens), width)
    if copy:
        add("output.weight", embedding, copy)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(SHAPE["num_hidden_layers"]):
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width // 2, width),
            ("attn_v", width // 2, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bert(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmn"),
    ]
    bare = Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    bare.normalizer = normalizers.BertNormalizer()
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bare.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    bare.enable_truncation(8)
    bare.enable_padding()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _family(name: str, folder: Path, tokenizers: Path) -> None:
    """A checkpoint with the files that the family's publisher provides, and random weights."""
    import transformers

    folder.mkdir(parents=True)
    settings: dict[str, Any] = {}
    if name == "gemma2":
        shutil.copyfile(tokenizers / "gemma2.json", folder / "tokenizer.json")
        shutil.copyfile(tokenizers / "gemma2.config.json", folder / "tokenizer_config.json")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    elif name == "mistral":
        # Only the sentencepiece file, as in old checkpoints: the export converts it to tokenizer.json.
        shutil.copyfile(tokenizers / "mistral.model", folder / "tokenizer.model")
        config = {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "chat_template": (tokenizers / "mistral.jinja").read_text(),
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        settings = {"tie_word_embeddings": False}
    else:
        vocabulary = "qwen2" if name == "qwen3" else name
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
            tokenizers, gguf_file=f"{vocabulary}.gguf"
        )
        template = tokenizers / f"{name}.jinja"
        if template.is_file():
            tokenizer.chat_template = template.read_text()
        tokenizer.save_pretrained(folder)
        settings = {"tie_word_embeddings": name != "phi3"}
    tokens = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    decoder(name, vocab_size=len(tokenizer), **tokens, **settings).save_pretrained(folder)


_OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "mistral": {"sliding_window": None},
    "phi3": {"original_max_position_embeddings": SHAPE["max_position_embeddings"]},
    "qwen3": {"head_dim": 16},
}


def decoder(name: str, **settings: Any) -> Any:
    """A model of a family with random weights; ``settings`` override its configuration."""
    import transformers

    family = name[0].upper() + name[1:]
    model_class = getattr(transformers, f"{family}ForCausalLM")
    config = model_class.config_class(**{**SHAPE, **_OWN.get(name, {}), **settings})
    return model_class(config).eval()


if __name__ == "__main__":
    target, *names = sys.argv[1:]
    folder = None
    if any(name in FAMILIES for name in names):
        from tests.support.export.families import fetch

        folder = fetch()
    for wanted in names:
        make(wanted, Path(target), folder)
