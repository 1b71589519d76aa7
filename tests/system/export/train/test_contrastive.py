"""An encoder taught by pairs of rows: which pairs are drawn, and the real child on a tiny encoder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.contrastive import MOST_PAIRS, PAIRS, draw_pairs, train_contrastive
from edgeslm_export.train.encoder_finetune import pooled
from edgeslm_export.train.job import TrainingJob

from edgeslm.errors import ExportError
from tests.support.export.tiny_tasks import sayings


@pytest.mark.parametrize(
    ("truth", "drawn"),
    [
        ([0, 1], 4),
        ([0, 0, 0, 0, 1], 22),  # 11 are alike, each with itself too, and 4 apart
        ([0, 1, 2, 3, 4], 20),  # 5 are alike and 10 apart
        ([row % 6 for row in range(240)], MOST_PAIRS),
    ],
)
def test_as_many_pairs_are_alike_as_apart(truth: list[int], drawn: int) -> None:
    pairs = draw_pairs(truth, 0)
    assert len(pairs) == drawn
    assert Counter(truth[one] == truth[other] for one, other in pairs) == {True: drawn / 2, False: drawn / 2}
    counts = Counter(pairs)
    for alike in (True, False):
        of_kind = [count for (one, other), count in counts.items() if (truth[one] == truth[other]) == alike]
        assert max(of_kind) - min(of_kind) <= 1, "none is drawn again before all were"
    assert draw_pairs(truth, 0) == pairs != draw_pairs(truth, 1)


def test_rows_of_one_label_make_pairs_too() -> None:
    assert sorted(draw_pairs([3, 3], 0)) == [(0, 0), (0, 1), (1, 1)]


def gap(checkpoint: Path) -> float:
    """By how much more like each other texts of one label are than those of two."""
    section, _ = read_pooling(checkpoint)
    texts, truth = sayings(20, seed=9)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
        vectors = pooled(hidden, encoded.attention_mask, section.pooling, normalize=True)
    cosines, labels = vectors @ vectors.T, torch.tensor(truth)
    alike = labels[:, None] == labels[None]
    return float(cosines[alike].mean() - cosines[~alike].mean())


@pytest.mark.export
def test_texts_of_one_label_come_to_lie_together(tmp_path: Path, encoders: Path, one_thread: None) -> None:
    texts, truth = sayings(16)
    section, _ = read_pooling(encoders / "e5")
    job = TrainingJob(encoders / "e5", tmp_path / "out", replace(PAIRS, epochs=20, rate=2e-3))
    said = train_contrastive(job, section, 64, texts, truth)
    assert said["epochs"] == said["best_epoch"] == 20
    assert said["peak_rss"] > 0
    assert examine_local(job.out, "encoder").architecture == "XLMRobertaModel"
    assert (job.out / "1_Pooling" / "config.json").is_file()
    assert gap(job.out) > gap(job.source) + 0.2


@pytest.mark.export
def test_a_time_too_short_is_told(tmp_path: Path, encoders: Path) -> None:
    section, _ = read_pooling(encoders / "bge")
    job = TrainingJob(encoders / "bge", tmp_path / "out", replace(PAIRS, seconds=1e-9))
    with pytest.raises(ExportError, match="training the encoder by pairs finished 0 of"):
        train_contrastive(job, section, 64, ["a", "b"], [0, 1])
