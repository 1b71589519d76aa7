"""Expected times of trainings: which are counted, and how they grow. No model is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.device import Device
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train import training_cost
from edgeslm_export.train.spec import Budget, Inputs, TaskSpec
from edgeslm_export.train.training_cost import expected_steps, timed

from edgeslm.bundle.manifest import Source

MINILM = Origin(Path("minilm"), "BertModel", 22_700_000, Source(id="minilm"), "")
SMOLLM2 = Origin(Path("smollm2"), "LlamaForCausalLM", 135_000_000, Source(id="smollm2"), "")
INPUTS = Inputs(Path("encoder"), MINILM, Path("base"), SMOLLM2)


def spec(rows: int, length: int = 70) -> TaskSpec:
    texts = [f"{row:0{length}}" for row in range(rows)]
    parts = np.array_split(np.arange(rows), 5)
    folds = [(np.setdiff1d(np.arange(rows), part), part) for part in parts]
    return TaskSpec("topic", texts, np.arange(rows) % 2, ("a", "b"), folds)


@pytest.fixture(autouse=True)
def peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cost, "can_train_adapters", lambda: True)


def steps(task: TaskSpec, folder: Path, **budget: Any) -> dict[str, float]:
    return expected_steps(task, INPUTS, Budget(**budget), Notes(folder / "notes"), 100.0)


def test_each_training_of_the_wanted_methods_is_counted(tmp_path: Path) -> None:
    assert list(steps(spec(1000), tmp_path)) == [
        *("head", "encoder-0", "encoder-1", "encoder-2", "encoder-all", "lora-0", "lora-all")
    ]
    assert list(steps(spec(50), tmp_path, methods=("head",))) == ["head"]
    only = steps(spec(50), tmp_path, methods=("qlora",))
    assert list(only) == [*(f"qlora-{fold}" for fold in range(5)), "qlora-all"]


def test_more_and_longer_rows_take_longer_up_to_the_limit(tmp_path: Path) -> None:
    few, many = (steps(spec(rows), tmp_path, methods=("lora",))["lora-all"] for rows in (300, 30_000))
    long = steps(spec(300, 700), tmp_path, methods=("lora",))["lora-all"]
    assert few < long < many
    limited = steps(spec(30_000), tmp_path, methods=("lora",), seconds=60.0)
    assert sum(limited.values()) == pytest.approx(60 + 2 * 40)


def test_trainings_that_are_done_are_not_counted_again(tmp_path: Path) -> None:
    Notes(tmp_path / "notes").save("encoder-0", {"epochs": 3})
    left = steps(spec(1000), tmp_path, methods=("encoder",))
    assert list(left) == ["encoder-1", "encoder-2", "encoder-all"]


def test_a_time_limit_that_is_too_short_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_cost, "matmul_gflops", lambda: 100.0)
    said: list[str] = []
    for seconds in (60.0, 36_000.0):
        budget = Budget(("lora",), seconds=seconds, announce=said.append)
        timed(budget, spec(30_000), INPUTS, Notes(tmp_path))
    assert len(said) == 3
    assert said[0].startswith("The method lora takes about ")
    assert said[0].endswith(
        " here, so --minutes 1 is probably too short; allow more, or take another --method."
    )


def test_the_user_is_told_before_and_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cost, "matmul_gflops", lambda: 100.0)
    said: list[str] = []
    shown: list[tuple[int, int, str]] = []
    budget = Budget(("lora",), announce=said.append, on_progress=lambda *one: shown.append(one))
    new = timed(budget, spec(1000), INPUTS, Notes(tmp_path))
    assert said[0].startswith("Training takes about ") and said[0].endswith(" min on this machine.")
    assert new.on_progress is not None
    new.begin("lora-0")
    new.begin("something else")
    new.on_progress(1, 10, "training the adapter")
    assert shown == [(1, 10, "training the adapter")]
    assert timed(replace(budget, on_progress=None), spec(50), INPUTS, Notes(tmp_path)).on_progress is None


@pytest.mark.parametrize("free", [10**12, 10**6])
def test_the_times_are_the_cpus(free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cost, "matmul_gflops", lambda: 100.0)
    said: list[str] = []
    budget = Budget(("lora",), seconds=60.0, announce=said.append, device=Device("cuda", free_bytes=free))
    timed(budget, spec(30_000), INPUTS, Notes(tmp_path))
    if free == 10**12:
        assert len(said) == 1
        assert said[0].endswith(" on this machine's CPU; the GPU's time isn't known.")
    else:  # the GPU has no room for the model, so it is trained on the CPU
        assert "so --minutes 1 is probably too short" in said[0]
        assert said[1].endswith(" on this machine.")
