"""An encoder taught by labels, in the real child, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.encoder_finetune import LAYER, Classifier, load_layer, schedule_for, train_encoder
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule

from tests.support.export.tiny_tasks import sayings

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]
SCHEDULE = Schedule(epochs=10, batch=8, rate=3e-3)
TEXTS, TRUTH = sayings(96)


def vectors_of(checkpoint: Path, texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The first token's vector, normalized: how ``bge`` is pooled."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0]
        values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        values = torch.nn.functional.normalize(hidden).numpy()
    return values


def test_labels_are_told_apart_by_what_was_taught(tmp_path: Path, encoders: Path) -> None:
    section, _ = read_pooling(encoders / "bge")
    out = tmp_path / "out"
    said = train_encoder(TrainingJob(encoders / "bge", out, SCHEDULE), section, 64, TEXTS, TRUTH, 2)
    assert said["epochs"] == said["best_epoch"] == 10
    assert examine_local(out, "encoder").architecture == "BertModel"
    assert (out / LAYER).is_file()
    weight, bias = load_layer(out)
    assert weight.dtype == bias.dtype == np.float32
    assert (weight.shape, bias.shape) == ((2, 32), (2,))
    texts, truth = sayings(40, seed=9)
    guesses = (vectors_of(out, texts) @ weight.T + bias).argmax(1)
    assert (guesses == truth).mean() > 0.8


def test_shares_of_a_teacher_are_learned(tmp_path: Path, encoders: Path) -> None:
    """A teacher that is never sure makes a pupil that isn't either."""
    section, _ = read_pooling(encoders / "bge")
    out = tmp_path / "out"
    shares = [[0.7, 0.3] if label == 0 else [0.3, 0.7] for label in TRUTH]
    train_encoder(TrainingJob(encoders / "bge", out, SCHEDULE), section, 64, TEXTS, shares, 2)
    weight, bias = load_layer(out)
    logits = vectors_of(out, TEXTS) @ weight.T + bias
    likely = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    assert likely[np.array(TRUTH) == 0].mean() == pytest.approx(0.7, abs=0.07)
    assert likely[np.array(TRUTH) == 1].mean() == pytest.approx(0.3, abs=0.07)


def test_rows_aside_choose_the_epoch(tmp_path: Path, encoders: Path) -> None:
    """Their labels are turned round: what is learned of the others makes them worse."""
    section, _ = read_pooling(encoders / "bge")
    aside = list(range(8))
    truth = [1 - label if row in aside else label for row, label in enumerate(TRUTH)]
    schedule = Schedule(epochs=15, batch=8, rate=3e-3)
    job = TrainingJob(encoders / "bge", tmp_path / "out", schedule, aside)
    said = train_encoder(job, section, 64, TEXTS, truth, 2)
    assert said["epochs"] == said["best_epoch"] + 2 < 15


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_padding_changes_no_vector(encoders: Path, pooling: str, normalize: bool) -> None:
    model = transformers.AutoModel.from_pretrained(encoders / "bge", dtype=torch.float32).eval()
    pupil = Classifier(model, 3, pooling, normalize)
    short, long = torch.tensor([[2, 10, 11, 3]]), torch.tensor([[2, 10, 11, 3, 0, 0]])
    with torch.no_grad():
        alone = pupil.logits(short, torch.ones_like(short))
        padded = pupil.logits(long, torch.tensor([[1, 1, 1, 1, 0, 0]]))
    assert padded.numpy() == pytest.approx(alone.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"), [(50, 20, 16), (500, 10, 16), (1000, 10, 32), (50_000, 5, 32)]
)
def test_few_rows_are_seen_more_often(rows: int, epochs: int, batch: int) -> None:
    assert schedule_for(rows) == Schedule(epochs, batch, 1e-4)
