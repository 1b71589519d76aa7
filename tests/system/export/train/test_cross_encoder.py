"""Cross-encoders as they are published: what a device computes is what the model says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from edgeslm_export.cli.main import main
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.sources.hub import resolve_source
from edgeslm_export.train.cross_encoder import take_apart
from edgeslm_export.train.reader import export_cross_encoder
from edgeslm_export.train.spec import Budget

from edgeslm.engine.calls import Read
from edgeslm.errors import ExportError
from tests.support.export import tiny_encoders

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]


def make(encoders: Path, name: str, folder: Path, labels: int = 1, **settings: Any) -> Path:
    """A classifier with random weights on a tiny encoder's tokenizer."""
    config = transformers.AutoConfig.from_pretrained(encoders / name, num_labels=labels, **settings)
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    for file in (encoders / name).glob("*token*"):
        shutil.copy(file, folder)
    return folder


FAMILIES = ("bge", "e5", "deberta", "modernbert")
PASSAGES = ("the pump is hot", "the valve is loud", "the compressor stopped and the oil is hot")


@pytest.fixture(scope="module")
def pairs_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A cross-encoder with random weights, by the family of its encoder."""

    @cache
    def made(name: str) -> Path:
        more = {"classifier_pooling": "mean"} if name == "modernbert" else {}
        return tiny_encoders.make_classifier(name, tmp_path_factory.mktemp(name), num_labels=1, **more)

    return made


def expected_of(source: Path, texts: tuple[str, ...]) -> list[float]:
    """Probabilities that transformers computes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    has_segments = getattr(whole.config, "type_vocab_size", 0) > 1
    found = []
    for text in texts:
        pair: Any = tokenizer("the pump", text, return_tensors="pt", return_token_type_ids=has_segments)
        with torch.no_grad():
            found.append(float(torch.sigmoid(whole(**pair).logits[0, 0])))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_float_reader_says_what_transformers_does(
    pairs_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    source, out = pairs_of(name), tmp_path / "reader"
    export_cross_encoder(resolve_source(str(source), "reader", print), out, Budget(), "float")
    said = load_encoder(out).run(Read("the pump", PASSAGES)).probabilities
    expected = expected_of(source, PASSAGES)
    apart = max(abs(one - other) for one, other in zip(said, expected, strict=True))
    print(f"{name}: largest difference of a probability {apart:.2e}")
    assert apart < 2e-6


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


def test_what_was_not_taught_to_read_is_told_how(
    encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"as a reader \(--questions trains it as one"):
        resolve_source(str(encoders / "bge"), "reader", print)
    whole = make(encoders, "bge", tmp_path / "whole")
    assert main(["encoder", str(whole), str(tmp_path / "out")]) == 1
    assert "`edgeslm-export reader` exports cross-encoders" in capsys.readouterr().err
