"""The values of learning: what is noted, which rows are held out or watched, what a trial says."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.train.spec import drift_reference, epochs_to_take, folds_to_try, make_trial, rows_aside

from edgeslm.bundle.learned_task import DriftReference
from tests.support.export.tiny_tasks import make_spec

# --- notes -------------------------------------------------------------------------------------------


def test_what_was_noted_is_found_by_the_next_command(tmp_path: Path) -> None:
    Notes(tmp_path / "notes").save("lora-0", {"shares": [[0.25, 0.75]]})
    assert Notes(tmp_path / "notes").load("lora-0") == {"shares": [[0.25, 0.75]]}
    assert Notes(tmp_path / "notes").load("lora-1") is None


def test_a_note_that_was_damaged_is_none(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.save("head", {"a": 1})
    (tmp_path / "head.json").write_text('{"a":')
    assert notes.load("head") is None


def test_a_note_that_was_half_written_leaves_the_one_before(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.save("head", {"a": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))  # Python ignores the signal that goes with it
    try:
        with pytest.raises(OSError, match="File too large"):
            notes.save("head", {"a": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert notes.load("head") == {"a": 1}


def test_nothing_of_notes_stays_in_the_end(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    notes.save("head", {})
    notes.state("head").write_bytes(b"weights")
    notes.remove()
    assert list(tmp_path.iterdir()) == []


# --- rows held out and watched -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "enough", "folds"),
    [(40, 200, 5), (200, 200, 5), (300, 200, 4), (500, 200, 2), (990, 200, 2), (1000, 200, 1), (500, 100, 1)],
)
def test_no_more_folds_are_tried_than_test_enough_rows(rows: int, enough: int, folds: int) -> None:
    assert len(folds_to_try(make_spec(rows).folds, enough)) == folds


@pytest.mark.parametrize(("rows", "watched"), [(10, 0), (249, 0), (250, 25), (4001, 400)])
def test_one_row_in_ten_of_enough_is_watched(rows: int, watched: int) -> None:
    aside = rows_aside(list(map(str, range(rows))))
    assert len(aside) == len(set(aside)) == watched
    assert aside == sorted(aside) == rows_aside(list(map(str, range(rows))))
    assert set(aside) <= set(range(rows))


def test_equal_texts_are_watched_together() -> None:
    texts = [f"message {row // 3}" for row in range(900)]
    aside = set(rows_aside(texts))
    assert 80 < len(aside) <= 90
    assert all(len({row in aside for row in range(at, at + 3)}) == 1 for at in range(0, 900, 3))


def test_watched_rows_are_drawn_from_everywhere() -> None:
    aside = rows_aside(list(map(str, range(1000))))
    assert all(5 < sum(start <= row < start + 250 for row in aside) < 50 for start in (0, 250, 500, 750))


# --- a trial -----------------------------------------------------------------------------------------


def test_a_trial_counts_the_rows_that_it_held_out() -> None:
    spec = make_spec(40)
    held = np.arange(0, 40, 2)  # all of them heat
    logits = np.tile([2.0, 0.0], (20, 1))
    logits[:5] = [0.0, 2.0]
    trial = make_trial("head", held, logits, spec, {"strength": 3.0}, 7.5, 1234)
    assert trial.figures["rows"] == 20
    assert trial.figures["accuracy"] == 0.75
    assert trial.figures["strength"] == 3.0
    assert trial.figures["labels"]["heat"]["recall"] == 0.75
    assert (trial.texts_per_s, trial.bytes) == (7.5, 1234)
    assert [sum(verdict.scores) for verdict in trial.fitted.verdicts] == pytest.approx([1] * 20)
    assert trial.fitted.calibration.rows == 20


def test_accuracy_and_calibration_error_are_those_of_what_a_device_says() -> None:
    """A label that is said too often loses by its bias, and then more rows are right."""
    spec = make_spec(400)
    chance = np.random.default_rng(4)
    logits = np.eye(2)[spec.truth] * 2 + chance.standard_normal((400, 2)) + [3.0, 0.0]
    trial = make_trial("head", np.arange(400), logits, spec, {}, 1.0, 1)
    assert (logits.argmax(1) == spec.truth).mean() < 0.75
    assert trial.figures["accuracy"] > 0.85
    assert trial.figures["calibration_error"] < 0.1


def test_doubted_rows_count_against_accuracy_alone() -> None:
    spec = replace(make_spec(400), doubted=list(range(0, 400, 20)))
    truth = spec.truth.copy()
    truth[list(spec.doubted)] = 1 - truth[list(spec.doubted)]
    trial = make_trial("head", np.arange(400), np.eye(2)[truth] * 9, spec, {}, 1.0, 1)
    assert (trial.figures["accuracy"], trial.figures["without_doubted"]) == (0.95, 1.0)
    assert trial.figures["calibration_error"] < 0.01
    assert min(point.error for point in trial.fitted.calibration.risk) < 0.01


def test_the_reference_for_drift_is_what_held_out_rows_were_like() -> None:
    spec = make_spec(40)
    logits = np.eye(2)[spec.truth] * 4
    distances = np.linspace(0.2, 0.6, 40).tolist()
    trial = make_trial("head", np.arange(40), logits, spec, {}, 1.0, 1, distances)
    verdicts = trial.fitted.verdicts
    confidences = [verdict.confidence for verdict in verdicts]
    reference = drift_reference(distances, confidences, [verdict.best for verdict in verdicts], 2)
    assert DriftReference.model_validate_json(json.dumps(reference))
    spread = reference["distances"]
    assert (spread[0], spread[-1]) == (0.2, 0.6)
    assert spread == sorted(spread)
    assert reference["confidences"] == sorted(reference["confidences"])
    assert reference["labels"] == [0.5, 0.5]


def test_a_way_without_vectors_has_no_distances_to_compare_with() -> None:
    reference = drift_reference([], [0.5, 0.9], [0, 1, 1, 0], 2)
    assert (reference["distances"], reference["labels"]) == ([], [0.5, 0.5])


def test_fields_have_no_labels_to_compare_with() -> None:
    reference = drift_reference([0.1, 0.2], [0.5, 0.9])
    assert reference["labels"] == []
    assert DriftReference.model_validate_json(json.dumps(reference))


@pytest.mark.parametrize(
    ("best", "epochs"), [([4], 4), ([3, 4], 4), ([2, 2, 5], 3), ([0], 0), ([5, 0, 6], 0)]
)
def test_all_rows_are_taught_as_long_as_was_best_unless_the_clock_ended_it(
    best: list[int], epochs: int
) -> None:
    assert epochs_to_take(best) == epochs
