"""The fit of a label bias as a job; ``tests/integration/export/train`` tests when a bias is kept."""

from __future__ import annotations

from edgeslm.bundle.calibration import LabelledBias
from edgeslm.engine.worker.label_bias import fit_bias
from edgeslm.ipc.job import run_job
from edgeslm.serving.fitted_bias import describe_bias
from edgeslm.serving.label_calibration import JOB, JOB_BYTES, JOB_S

LABELS = ["normal", "critical"]


def fit(scores: list[list[float]], truth: list[str]) -> LabelledBias:
    return fit_bias([dict(zip(LABELS, row, strict=True)) for row in scores], truth, LABELS)


def test_a_job_fits_the_bias() -> None:
    order = {"scores": [[0.9, 0.1]] * 12, "truth": ["critical"] * 12, "labels": LABELS}
    found = LabelledBias(**run_job(JOB, order, timeout_s=JOB_S, memory_bytes=JOB_BYTES))
    assert found.biases is not None and found.biases["normal"] > found.biases["critical"]
    assert (found.rows, found.right, found.right_with) == (12, 0, 12)
    assert describe_bias(found) == (
        "label bias fitted to 12 messages (those without a correction count as right): "
        "12 are right, 0 without it"
    )


def test_a_bias_that_doesnt_help_is_none() -> None:
    found = fit([[0.9, 0.1]] * 10, ["normal"] * 10)
    assert found.biases is None and found.right == 10
    assert describe_bias(found).endswith("count as right): none helps")


def test_what_puts_errors_right_may_not_make_others_wrong() -> None:
    truth = ["critical"] * 12 + ["normal"] * 40
    assert fit([[0.9, 0.1]] * 52, truth).biases is None, "nothing tells them apart"
    found = fit([*[[0.6, 0.4]] * 12, *[[0.98, 0.02]] * 40], truth)
    assert found.biases is not None and found.right_with == 52
