"""Classifiers of several encoder families, taught here on TREC: int8 bundles beside the float models.

    python benchmarks/quality/quantization.py classifiers [--families Bert ...] [--epochs 3] [--json]

Each family starts with random weights (4 layers, 128 wide, the starter's tokenizer), is trained on TREC's
questions by transformers and exported by ``edgeslm-export encoder``. On the 500 test questions, float model
and bundle are compared: accuracy, the mean over all labels of the difference of a probability, the largest
such difference, and the share of questions with the same label.

Prints the machine, a table, then one JSON line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from edgeslm_export.evaluate.report_card import classify_texts, load_encoder
from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib.labelled import load_trec
from benchmarks.lib.machine import processor
from benchmarks.lib.paths import STARTER

FAMILIES: Final = ("Bert", "DebertaV2", "ModernBert", "XLMRoberta")
LENGTH: Final = 48
"""Tokens that a question may have in training; TREC's longest has fewer words."""
BATCH: Final = 32
RATE: Final = 1e-3
_SHAPE: Final[dict[str, Any]] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 130,
    "pad_token_id": 0,
}
_OWN: Final[dict[str, dict[str, Any]]] = {
    "DebertaV2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "position_buckets": 32,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "ModernBert": {"cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102},
}


def teach(family: str, rows: Sequence[dict[str, str]], epochs: int, folder: Path) -> Any:
    """Trains a classifier, and writes it with its tokenizer into ``folder``."""
    import torch
    import transformers

    labels = sorted({row["label"] for row in rows})
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(STARTER / "minilm-l6-int8/tokenizer.json"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
    )
    numbered = dict(enumerate(labels))
    config = getattr(transformers, f"{family}Config")(
        **{**_SHAPE, **_OWN.get(family, {})},
        vocab_size=len(tokenizer),
        id2label=numbered,
        label2id={label: number for number, label in numbered.items()},
    )
    torch.manual_seed(5)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    model.train()
    steps = epochs * (len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for batch in _batches(rows, epochs):
        encoded = _encode(tokenizer, [row["text"] for row in batch])
        wanted = torch.tensor([labels.index(row["label"]) for row in batch])
        model(**encoded, labels=wanted).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def _batches(rows: Sequence[dict[str, str]], epochs: int) -> Iterator[list[dict[str, str]]]:
    draw = np.random.default_rng(5)
    for _ in range(epochs):
        order = draw.permutation(len(rows))
        for begin in range(0, len(rows) - BATCH + 1, BATCH):
            yield [rows[place] for place in order[begin : begin + BATCH]]


def _encode(tokenizer: Any, texts: list[str]) -> Any:
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def float_probabilities(model: Any, tokenizer: Any, texts: list[str]) -> npt.NDArray[np.float64]:
    """[texts, labels], by transformers."""
    import torch

    found = []
    with torch.inference_mode():
        for text in texts:  # one by one: no padding
            found.append(model(**_encode(tokenizer, [text])).logits.softmax(-1)[0].numpy())
    return np.asarray(found, np.float64)


def measure(
    family: str, rows: Sequence[dict[str, str]], test: Sequence[dict[str, str]], epochs: int, folder: Path
) -> dict[str, Any]:
    """The row of one family."""
    source, out = folder / family.lower(), folder / f"{family.lower()}-int8"
    model, tokenizer = teach(family, rows, epochs, source)
    command = [sys.executable, "-m", "edgeslm_export", "encoder", str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{family}: {done.stderr.strip().splitlines()[-1]}")
    texts = [row["text"] for row in test]
    own = float_probabilities(model, tokenizer, texts)
    ours = np.asarray(classify_texts(load_encoder(out), texts))
    labels = [model.config.id2label[number] for number in range(own.shape[1])]
    right = np.asarray([labels.index(row["label"]) for row in test])
    apart = np.abs(own - ours)
    shutil.rmtree(out)
    return {
        "family": family,
        "float": round(float((own.argmax(1) == right).mean()), 3),
        "int8": round(float((ours.argmax(1) == right).mean()), 3),
        "mean": round(float(apart.mean()), 5),
        "largest": round(float(apart.max()), 4),
        "same_label": round(float((own.argmax(1) == ours.argmax(1)).mean()), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows (default: all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trec = load_trec(Packages(lambda said: print(said, file=sys.stderr)))
    rows = list(trec.rows)[: options.rows]
    found = []
    if not options.json:
        print(processor())
        print(f"{'family':<12}{'float':>7}{'int8':>7}{'mean':>9}{'largest':>9}{'same label':>12}")
    with tempfile.TemporaryDirectory(prefix="classifiers-") as folder:
        for family in options.families:
            row = measure(family, rows, trec.test, options.epochs, Path(folder))
            found.append(row)
            if not options.json:
                print(
                    f"{family:<12}{row['float']:>7.3f}{row['int8']:>7.3f}{row['mean']:>9.5f}"
                    f"{row['largest']:>9.4f}{row['same_label']:>12.4f}",
                    flush=True,
                )
    print(
        json.dumps({"machine": processor(), "epochs": options.epochs, "rows": len(rows), "families": found})
    )
    return 0
