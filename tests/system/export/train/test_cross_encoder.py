"""Cross-encoders as they are published: what a device computes is what the model says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.sources.hub import resolve_source
from edgeslm_export.train.cross_encoder import take_apart
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.reader import export_cross_encoder
from edgeslm_export.train.spec import Budget

from edgeslm.engine.calls import Read
from edgeslm.engine.worker.heads import Reader
from edgeslm.errors import ExportError

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]


def make(encoders: Path, name: str, folder: Path, labels: int = 1) -> Path:
    """A classifier with random weights on a tiny encoder's tokenizer."""
    config = transformers.AutoConfig.from_pretrained(encoders / name, num_labels=labels)
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    for file in (encoders / name).glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("name", ["bge", "e5"])
def test_taken_apart_it_says_the_same(encoders: Path, tmp_path: Path, name: str) -> None:
    source, out = make(encoders, name, tmp_path / "whole"), tmp_path / "out"
    take_apart(source, out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    pair: Any = tokenizer("the pump", "is hot", return_tensors="pt", return_token_type_ids=name == "bge")
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    part = transformers.AutoModel.from_pretrained(out).eval()
    with torch.no_grad():
        logit, hidden = float(whole(**pair).logits[0, 0]), part(**pair).last_hidden_state
    with np.load(out / LAYER, allow_pickle=False) as arrays:
        likely = Reader(**arrays).probability(hidden[0, 0].numpy())
    assert likely == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)


def test_one_that_tells_labels_apart_is_no_reader(encoders: Path, tmp_path: Path) -> None:
    source = make(encoders, "bge", tmp_path / "whole", labels=3)
    with pytest.raises(ExportError, match="tells 3 labels apart"):
        take_apart(source, tmp_path / "out")


def test_a_bundle_of_one(encoders: Path, tmp_path: Path) -> None:
    """Through the command's own way: a device says nearly what the float model says."""
    source, out = make(encoders, "bge", tmp_path / "whole"), tmp_path / "reader"
    origin = resolve_source(str(source), "reader", print)
    manifest, figures = export_cross_encoder(origin, out, Budget())
    assert manifest.is_reader
    assert figures["cosine_to_float"]["mean"] > 0.9
    texts = ("the pump is hot", "the valve is loud")
    said = load_encoder(out).run(Read("pump", texts)).probabilities
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    pairs: Any = tokenizer(["pump"] * 2, list(texts), return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        expected = torch.sigmoid(whole(**pairs).logits[:, 0]).tolist()
    assert said == pytest.approx(expected, abs=0.1)


def test_what_was_not_taught_to_read_is_told_how(encoders: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"as a reader \(--questions trains it as one"):
        resolve_source(str(encoders / "bge"), "reader", print)
    whole = make(encoders, "bge", tmp_path / "whole")
    with pytest.raises(ExportError, match="the command for it is `edgeslm-export reader`, without questions"):
        resolve_source(str(whole), "encoder", print)
