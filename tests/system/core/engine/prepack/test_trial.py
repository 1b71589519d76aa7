"""What is laid out is put to the test: other numbers, other answers, threads that others disturb."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.prepack import trial
from edgeslm.engine.prepack.golden import Golden, load_golden
from edgeslm.errors import BundleError, SelfTestError
from edgeslm.hardware.board import usable_cores
from tests.support.engine.golden_bundles import with_golden
from tests.support.nodes import write_bundle


@pytest.fixture(scope="module")
def golden_bundle(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The starter decoder with golden answers of this machine."""
    return with_golden(starter / "smollm2-135m-int4", tmp_path_factory.mktemp("golden") / "small")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "fake"))


def test_a_bundle_passes_its_own_test(golden_bundle: Bundle) -> None:
    trial.check_same(golden_bundle, "model.onnx", "model.onnx")
    apart = trial.test_itself(golden_bundle, "model.onnx")
    assert len(apart) == 2
    assert all(abs(one) < 0.001 for one in apart)


def test_other_answers_than_on_the_build_machine_are_refused_with_the_numbers(
    golden_bundle: Bundle, tmp_path: Path
) -> None:
    golden = load_golden(golden_bundle)
    assert golden is not None
    first, second = golden.answers
    wrong = first.model_copy(update={"log_probs": tuple(reversed(first.log_probs))})
    other = with_golden(golden_bundle.path, tmp_path / "other", Golden(answers=(wrong, second)))
    said = r"other: 1 of 2 answers differ from those of the build machine \(largest divergence \d\.\d\d nats"
    with pytest.raises(SelfTestError, match=said):
        trial.test_itself(other, "model.onnx")


def test_a_bundle_without_golden_answers_is_asked_nothing(bundle: Bundle) -> None:
    assert trial.test_itself(bundle, "model.onnx") == ()


@pytest.mark.parametrize("odd", [1.1, np.nan])
def test_other_numbers_are_refused(bundle: Bundle, odd: float) -> None:
    error = trial.relative_error(np.array([1.0, 1.0, odd, 1.0]), np.ones(4))
    by = "10.0%" if odd == odd else "nan%"
    with pytest.raises(BundleError, match=re.escape(f"give other numbers (by {by}), so they are not used")):
        trial.check_error(bundle, error)
    trial.check_error(bundle, trial.relative_error(np.array([1.0001, 1.0]), np.ones(2)))


# --- threads -----------------------------------------------------------------------------------------


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """CPU seconds of all processes, as often as they are asked for; requests take no time."""
    busy: list[float] = []
    monkeypatch.setattr(trial, "busy_s", lambda root: busy.pop(0))
    monkeypatch.setattr(
        trial, "time_request", lambda bundle, prepacked, threads: trial.Seconds(0.5 / threads, 1.0 / threads)
    )
    yield busy
    assert busy == []


def test_threads_are_measured_where_nobody_else_computes(bundle: Bundle, busy: list[float]) -> None:
    busy += [5000.0, 5000.0]
    found = trial.time_threads(bundle, "model.onnx")
    assert {1, usable_cores()} <= found.keys()
    assert found == {threads: (0.5 / threads, 1.0 / threads) for threads in found}


def test_threads_that_were_measured_against_others_are_not_told(bundle: Bundle, busy: list[float]) -> None:
    busy += [5000.0, 6000.0]
    assert trial.time_threads(bundle, "model.onnx") == {}


@pytest.mark.parametrize(("others_s", "disturbed"), [(0.3, False), (0.5, True)])
def test_others_may_take_a_tenth_of_the_processors(others_s: float, disturbed: bool) -> None:
    assert trial.is_disturbed(others_s, 1.0, 4) is disturbed


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 0.96}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.59}, 2),
        ({1: 1.0, 2: 1.2, 4: 0.5}, 4),
        ({4: 0.5, 1: 1.0, 2: 0.6}, 4),
    ],
)
def test_more_threads_have_to_be_worth_it(seconds: dict[int, float], threads: int) -> None:
    assert trial.fastest(seconds) == threads
