"""Tiny encoders with random weights and the files of published embedding models; see ``tiny_models``.

``bge``: BERT, pooled by the first token. ``e5``: XLM-RoBERTa, mean pooling, prefixes before texts.
``deberta``: DeBERTa-v2 with relative positions.
``modernbert``: ModernBERT with a byte-level BPE. Another name is that of a family in transformers, with
BERT's tokenizer. All with sentence-transformers' files.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

ENCODERS = ("bge", "e5", "modernbert")
PROMPTS = {"query": "query: ", "passage": "passage: "}
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.3,  # so that texts get different vectors
}
_WORDS = (
    "the",
    "pump",
    "press",
    "valve",
    "oil",
    "compressor",
    "machine",
    "is",
    "hot",
    "loud",
    "stopped",
    "alarm",
)


def make(name: str, folder: Path) -> None:
    pooling = "cls" if name == "bge" else "mean"
    made = {"bge": _bge, "e5": _e5, "modernbert": _modernbert, "deberta": _deberta}
    made.get(name, partial(_like_bert, name))(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    settings = {"prompts": PROMPTS if name == "e5" else {"query": "", "document": ""}}
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def make_classifier(name: str, folder: Path, **settings: Any) -> Path:
    """A sequence classifier on the encoder ``name``, in the subfolder ``whole``. :param settings: of its
    configuration."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    inner, whole = folder / "inner", folder / "whole"
    inner.mkdir()
    make(name, inner)
    config = AutoConfig.from_pretrained(inner, **settings)
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(whole)
    for file in inner.glob("*token*"):
        shutil.copy(file, whole)
    return whole


def _bge(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), *_WORDS]
    words = list(dict.fromkeys(words))
    bare = Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    bare.normalizer = normalizers.BertNormalizer()
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bare.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(**_SHAPE, vocab_size=len(words), max_position_embeddings=128)
    BertModel(config).save_pretrained(folder)
    _save(bare, folder, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]")


def _like_bert(family: str, folder: Path) -> None:
    """An encoder of another family with BERT's tokenizer, such as ``Electra``."""
    import transformers

    _bge(folder)
    size = transformers.AutoConfig.from_pretrained(folder).vocab_size
    config = getattr(transformers, f"{family}Config")(
        **_SHAPE, vocab_size=size, max_position_embeddings=130, pad_token_id=0, embedding_size=32
    )
    (folder / "model.safetensors").unlink()
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)


def _unigram(lead: str, mid: str, tail: str) -> tuple[Any, int]:
    """A SentencePiece tokenizer and its size; ``lead`` and ``tail`` surround a text, ``mid`` parts a pair."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [(lead, 0.0), ("<pad>", 0.0), (tail, 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in _WORDS]
    pieces += [
        (letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!"
    ]
    bare = Tokenizer(models.Unigram(pieces, unk_id=3))
    bare.pre_tokenizer = pre_tokenizers.Metaspace()
    bare.post_processor = processors.TemplateProcessing(
        single=f"{lead} $A {tail}",
        pair=f"{lead} $A {mid} $B:1 {tail}:1" if lead == "[CLS]" else f"{lead} $A {mid} {mid} $B {tail}",
        special_tokens=[(lead, 0), (tail, 2)],
    )
    return bare, len(pieces)


def _e5(folder: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    bare, size = _unigram("<s>", "</s>", "</s>")
    config = XLMRobertaConfig(
        **_SHAPE, vocab_size=size, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1
    )
    XLMRobertaModel(config).save_pretrained(folder)
    _save(bare, folder, pad="<pad>", unk="<unk>", cls="<s>", sep="</s>")


def _deberta(folder: Path) -> None:
    from transformers import DebertaV2Config, DebertaV2Model

    bare, size = _unigram("[CLS]", "[SEP]", "[SEP]")
    config = DebertaV2Config(
        **_SHAPE,
        vocab_size=size,
        max_position_embeddings=128,
        type_vocab_size=0,
        pad_token_id=1,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    )
    DebertaV2Model(config).save_pretrained(folder)
    _save(bare, folder, pad="<pad>", unk="<unk>", cls="[CLS]", sep="[SEP]")


def _modernbert(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import ModernBertConfig, ModernBertModel

    tokens = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "Ġth"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("Ġ", "th")], unk_token="[UNK]"))
    bare.normalizer = normalizers.NFC()
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    config = ModernBertConfig(
        **{**_SHAPE, "num_hidden_layers": 4},  # global attention in every third layer, windowed in others
        vocab_size=len(tokens),
        max_position_embeddings=256,
        global_attn_every_n_layers=3,
        local_attention=16,
        pad_token_id=3,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    ModernBertModel(config).save_pretrained(folder)
    _save(bare, folder, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]")


def _save(bare: Any, folder: Path, *, pad: str, unk: str, cls: str, sep: str) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token=pad, unk_token=unk, cls_token=cls, sep_token=sep
    ).save_pretrained(folder)
