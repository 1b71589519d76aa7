"""Label bias from labelled rows: fitted with a penalty, and kept only where it helps on rows left out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from edgeslm_export.cli import main
from edgeslm_export.train.distill import Teacher

from edgeslm.bundle.calibration import without_bias
from edgeslm.engine.worker.label_bias import fit_bias
from tests.support.export.fake_teachers import Answered, number_of, said


def biased(count: int, pull: float) -> tuple[list[dict[str, float]], list[str]]:
    """Probabilities of a model that tells spam and ham apart, but leans to spam by ``pull``."""
    chance = random.Random(5)
    scores, truth = [], []
    for number in range(count):
        label = ("spam", "ham")[number % 2]
        share = chance.uniform(0.6, 0.9) if label == "spam" else chance.uniform(0.1, 0.4)
        share = share * pull / (share * pull + 1 - share)
        scores.append({"spam": share, "ham": 1 - share})
        truth.append(label)
    return scores, truth


def test_a_leaning_model_is_put_right_by_ten_rows() -> None:
    scores, truth = biased(10, pull=12)
    found = fit_bias(scores, truth, ("spam", "ham"))
    assert found.biases is not None
    assert sum(found.biases.values()) == pytest.approx(1, abs=1e-5)
    assert found.right_with > found.right
    fresh, wanted = biased(60, pull=12)
    biases = tuple(found.biases.values())
    shares = [without_bias(tuple(of.values()), biases)[0] for of in fresh]
    right = sum((share > 0.5) == (label == "spam") for share, label in zip(shares, wanted, strict=True))
    assert (
        right
        >= 57
        > sum((of["spam"] > 0.5) == (label == "spam") for of, label in zip(fresh, wanted, strict=True))
    )


def test_a_bias_that_doesnt_help_isnt_kept() -> None:
    scores, truth = biased(12, pull=1)
    found = fit_bias(scores, truth, ("spam", "ham"))
    assert found.biases is None and found.right_with == found.right == 12


def test_rows_that_gain_by_chance_give_no_bias() -> None:
    """The labels have nothing to do with the scores: hardly any draw of ten rows gets a bias."""
    chance = random.Random(3)
    kept = 0
    for _ in range(60):
        shares = [chance.betavariate(2, 2) for _ in range(10)]
        scores = [{"spam": share, "ham": 1 - share} for share in shares]
        kept += fit_bias(scores, chance.choices(("spam", "ham"), k=10), ("spam", "ham")).biases is not None
    assert kept <= 2


def test_a_label_without_rows_keeps_a_bias_near_that_of_others() -> None:
    scores = [{"a": 0.7, "b": 0.2, "c": 0.1}] * 6 + [{"a": 0.6, "b": 0.3, "c": 0.1}] * 6
    found = fit_bias(scores, ["a"] * 6 + ["b"] * 6, ("a", "b", "c"))
    assert found.biases is None or all(0 < of < 1 for of in found.biases.values())


def test_the_command(
    decoder: Teacher, answered: Answered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, truth = biased(12, pull=8)
    answered(lambda text: said(scores[number_of(text)]["spam"]))
    rows = [json.dumps({"text": f"text {at}", "label": label}) for at, label in enumerate(truth)]
    file, task = tmp_path / "rows.jsonl", tmp_path / "task.yaml"
    file.write_text("\n".join(rows))
    task.write_text("name: topic\nkind: classify\nlabels: [spam, ham]\n")
    command = ["calibrate", str(task), str(decoder.base), "--labelled", str(file)]
    assert main.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["calibration"]["spam"] > told["calibration"]["ham"]
    assert (told["rows"], told["right_with"] > told["right"]) == (12, True)
    assert main.main(command) == 0
    assert capsys.readouterr().out.startswith('calibration: {"spam": 0.')
    file.write_text("\n".join(rows[:5]))
    assert main.main(command) == 1
    assert "at least 10 are needed" in capsys.readouterr().err
    assert main.main(["calibrate", str(task), str(decoder.base)]) == 1
    assert "either unlabelled messages or --labelled" in capsys.readouterr().err
