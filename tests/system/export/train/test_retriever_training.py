"""An encoder taught to search: the real child on tiny encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.retriever_training import RetrieverModel, Sought, TokenText, train_retriever

from edgeslm.errors import ExportError

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]

CHUNKS = [
    [
        Sought("the pump is hot", ("alarm pump",), 0),
        Sought("the pump is hot the pump is hot", (), 0),
        Sought("the valve is loud", ("oil",), 1),
        Sought("the compressor stopped", (), 2),
    ],
    [Sought("the press is loud", ("machine",), 3), Sought("the oil is hot", (), 4)],
] * 6


@pytest.mark.parametrize("name", ["bge", "e5", "modernbert"])
def test_questions_come_to_lie_near_their_texts(encoders: Path, tmp_path: Path, name: str) -> None:
    section, _ = read_pooling(encoders / name)
    schedule = Schedule(epochs=20, batch=2, rate=3e-3)
    said = train_retriever(TrainingJob(encoders / name, tmp_path / "out", schedule), section, 32, CHUNKS)
    assert said["loss"] < 0.5
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    pupil = RetrieverModel(transformers.AutoModel.from_pretrained(tmp_path / "out").eval(), section.pooling)
    with torch.no_grad():
        question, own, other = pupil.vectors(
            tokenizer(["alarm pump", "the pump is hot", "the valve is loud"]).input_ids
        )
    assert float(question @ own) > float(question @ other)


def test_what_says_the_same_as_its_own_text_counts_for_nothing(encoders: Path) -> None:
    model = transformers.AutoModel.from_pretrained(encoders / "bge").eval()
    pupil = RetrieverModel(model, "cls")
    own, other = TokenText([2, 5, 6, 3], [[2, 7, 3]], 0), TokenText([2, 8, 9, 3], [], 1)
    with torch.no_grad():
        alone, beside = float(pupil.loss([own, other])), float(pupil.loss([own, other, own]))
        twice = float(pupil.loss([own, other, TokenText(own.tokens, [], 0)]))
    assert alone > 0
    assert twice == pytest.approx(alone, abs=0.01)
    assert beside == pytest.approx(alone, abs=0.01), "nor does a text that is there again with its question"


def test_a_time_too_short_is_told(encoders: Path, tmp_path: Path) -> None:
    section, _ = read_pooling(encoders / "bge")
    schedule = Schedule(epochs=1, batch=2, rate=1e-3, seconds=1e-9)
    with pytest.raises(ExportError, match="training the encoder to search finished 0 of"):
        train_retriever(TrainingJob(encoders / "bge", tmp_path / "out", schedule), section, 32, CHUNKS)
