"""A reader taught: which tokens count as an answer, and the real child on a tiny encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeslm_export.train.cross_encoder_training import (
    Asked,
    CrossEncoder,
    PairRow,
    PairText,
    make_pair_row,
    train_reader,
)
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule

from edgeslm.engine.worker.heads import Reader
from edgeslm.errors import ExportError

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]

SHORT = Schedule(epochs=40, batch=4, rate=3e-3)
TEXT = "the pump is hot"
OTHER = "the valve is loud"
ASKED = [
    Asked("pump", (PairText(TEXT, True, (12, 15)), PairText(OTHER, False))),
    Asked("valve", (PairText(OTHER, True, (13, 17)), PairText(TEXT, False))),
] * 12


@pytest.fixture
def tokenizer(encoders: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(encoders / "bge")


def make_row(tokenizer: Any, question: str, text: PairText, length: int = 64) -> PairRow:
    row = make_pair_row(tokenizer, question, text, length)
    assert row is not None
    return row


def words(tokenizer: Any, tokens: list[int]) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(tokens))


def test_the_place_of_an_answer_is_found_among_the_tokens(tokenizer: Any) -> None:
    row = make_row(tokenizer, "pump hot", PairText(TEXT, answers=True, place=(9, 15)))
    assert row.place is not None
    first, last = row.place
    assert words(tokenizer, list(row.tokens[first : last + 1])) == ["is", "hot"]
    assert row.stands == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    told = tokenizer("pump hot", TEXT, return_token_type_ids=True).token_type_ids
    assert row.kinds == told == [0, 0, 0, 0, 1, 1, 1, 1, 1], "as a device tells them"


def test_what_is_no_answer_stands_nowhere(tokenizer: Any) -> None:
    assert make_row(tokenizer, "pump", PairText(TEXT, answers=False)).place == (0, 0)
    assert make_row(tokenizer, "pump", PairText(TEXT, answers=True)).place is None


def test_a_text_whose_answer_is_cut_off_is_not_learned_from(tokenizer: Any) -> None:
    answered = PairText(TEXT, answers=True, place=(12, 15))
    assert make_pair_row(tokenizer, "pump", answered, 7) is None
    assert len(make_row(tokenizer, "pump", PairText(TEXT, answers=False), 7).tokens) == 7
    assert make_row(tokenizer, "pump", answered, 8).place == (6, 6)


def test_a_question_has_a_quarter(tokenizer: Any) -> None:
    """As on a device, or the text would have no room."""
    row = make_row(tokenizer, "pump valve " * 50, PairText(TEXT, answers=True, place=(12, 15)), 32)
    assert row.stands.count(1) == 4
    assert len(row.tokens) == 8 + 4 + 3


def test_padding_changes_no_logit(tokenizer: Any, encoders: Path) -> None:
    model = transformers.AutoModel.from_pretrained(encoders / "bge", dtype=torch.float32).eval()
    pupil = CrossEncoder(model)
    short = make_row(tokenizer, "pump", PairText(TEXT, answers=True))
    long = make_row(tokenizer, "pump", PairText(f"{TEXT} {TEXT}", answers=False))
    with torch.no_grad():
        alone, together = (
            pupil.losses_by_temperature([[short]])[0, 0],
            pupil.losses_by_temperature([[short], [long]])[0, 0],
        )
    assert float(together) == pytest.approx(float(alone), abs=0.02)  # halves, where they are faster


def test_it_learns_which_text_answers_which_question(encoders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = train_reader(TrainingJob(encoders / "bge", out, SHORT, [0, 1]), 64, ASKED)
    assert said["loss_aside"] < 0.4
    assert said["temperature"] >= 1
    with np.load(out / LAYER, allow_pickle=False) as arrays:
        shapes = {name: values.shape for name, values in arrays.items()}
        assert shapes == {"weight": (1, 32), "bias": (1,), "place_weight": (2, 32), "place_bias": (2,)}
        weight, bias = arrays["weight"], arrays["bias"]
        reader = Reader(**{name: arrays[name] for name in shapes})
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    for asked in ASKED[:2]:
        for text in asked.texts:
            pair = tokenizer(asked.question, text.text, return_tensors="pt", return_token_type_ids=True)
            with torch.no_grad():
                read = model(**pair).last_hidden_state[0].numpy()
            assert (float(weight[0] @ read[0] + bias[0]) > 0) == text.answers
            if text.answers:
                encoded = tokenizer(asked.question, text.text, return_offsets_mapping=True)
                stands = zip(encoded.offset_mapping, encoded.sequence_ids(), strict=True)
                places = reader.places(read, [at if of == 1 else (0, 0) for at, of in stands])
                assert places[0][:2] == text.place


def test_a_time_too_short_is_told(encoders: Path, tmp_path: Path) -> None:
    schedule = Schedule(epochs=2, batch=8, rate=1e-3, seconds=1e-9)
    with pytest.raises(ExportError, match="training the reader finished 0 of"):
        train_reader(TrainingJob(encoders / "bge", tmp_path / "out", schedule), 64, ASKED)
