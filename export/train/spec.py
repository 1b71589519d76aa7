"""Training specification: task, inputs and budget of a training, and the results of its trials.

A trial evaluates a method on held-out rows, through the graph that a device runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from edgeslm_export.data.rows import equal_texts
from edgeslm_export.jobs.device import Device
from edgeslm_export.jobs.subprocess_job import Announce, OnProgress
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train.calibration import Fitted, fit_calibration, log_softmax

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]

HEAD: Final = "head"
ENCODER: Final = "encoder"
LORA: Final = "lora"
QLORA: Final = "qlora"
METHODS: Final = (HEAD, ENCODER, LORA, QLORA)
ENOUGH_TESTED: Final = 500
"""Number of test rows after which no further folds are tried, for methods that train for minutes.
Guaranteeing an error rate of 0.02 takes at least some hundred test rows."""
ENOUGH_TESTED_SLOWLY: Final = 100
"""Number of test rows after which no further folds are tried, for methods that may train for an hour."""
SURE: Final = 0.6
"""Default for the confidence below which a teacher's label isn't used."""
_QUANTILES: Final = 51
_LEAST_LIKELY: Final = 1e-3
"""Lower bound that losses apply to the probability of the true label, so that one row doesn't outweigh all
others."""
_ROWS_TO_WATCH: Final = 250
_ROWS_ASIDE: Final = 10
"""One in ten training rows is a validation row for early stopping, if there are at least ``_ROWS_TO_WATCH``
training rows."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Models to train on: an encoder's ``bundle`` and its float ``checkpoint``; a decoder's bundle ``base``
    and the float checkpoint ``decoder`` that it was made from."""

    bundle: Path | None = None
    checkpoint: Origin | None = None
    base: Path | None = None
    decoder: Origin | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a training. ``methods`` are the methods to try (if empty, all of ``METHODS`` that are
    possible), ``seconds`` is the time limit for each method (0 for no limit), ``recalls`` has the wanted
    recall of labels, and ``device`` is what torch trains on. ``announce`` and ``on_progress`` inform the
    user."""

    methods: tuple[str, ...] = ()
    seconds: float = 0.0
    recalls: Mapping[str, float] = field(default_factory=dict)
    announce: Announce = print
    on_progress: OnProgress | None = None
    debug: bool = False
    begin: Callable[[str], None] = lambda step: None
    """Called before each training, with its name."""
    device: Device = field(default_factory=Device)

    def device_for(self, weights: int, bytes_a_weight: int) -> str:
        """The device for training a model with ``weights`` parameters."""
        return self.device.fitting(weights * bytes_a_weight, "Training", self.announce)

    def wants(self, *methods: str) -> bool:
        """Whether any of these methods may be tried."""
        return not self.methods or bool(set(methods) & set(self.methods))


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Training rows of a classify task, and the folds for evaluating methods.

    ``truth`` [rows] are indices of ``labels``; ``shares`` [rows, labels] are a teacher's soft labels.
    ``instruction`` is for decoders. ``doubted`` are rows whose label is probably wrong, which training and
    calibration leave out. The accuracy includes ``doubted`` rows, since it would otherwise be measured on the
    easy rows only. ``recalls`` has the wanted recall by index of the label.
    """

    name: str
    texts: Sequence[str]
    truth: Integers
    labels: tuple[str, ...]
    folds: Sequence[tuple[Integers, Integers]]
    shares: Floats | None = None
    instruction: str = ""
    doubted: Sequence[int] = ()
    recalls: Mapping[int, float] = field(default_factory=dict)

    @property
    def learned(self) -> Integers:
        """Indices of the rows for the final training."""
        import numpy as np

        return np.setdiff1d(np.arange(len(self.texts)), np.array(self.doubted, np.int64))


@dataclass(frozen=True, slots=True)
class Trial:
    """A method's results on the held-out rows ``held``.

    ``right`` [held] is whether a device's answer would be right. ``losses`` [held] are negative
    log-probabilities of the true labels. ``fitted`` has the calibration. ``distances`` [held] are distances
    from the training rows; empty for methods without vectors. ``figures`` are the method's figures in the
    report.
    """

    method: str
    held: Integers
    right: Bools
    losses: Floats
    fitted: Fitted
    distances: Sequence[float]
    figures: dict[str, Any]
    texts_per_s: float
    bytes: int


AnyTrial = TypeVar("AnyTrial", bound="Tried", covariant=True)


class Tried(Protocol):
    """Results by which methods are compared, in trials of classify and of extract tasks. ``right`` and
    ``losses`` have, for each row of ``held``, whether the answer is right and its loss. ``texts_per_s`` is
    measured with the device's engine."""

    @property
    def method(self) -> str: ...

    @property
    def held(self) -> Integers: ...

    @property
    def right(self) -> Bools: ...

    @property
    def losses(self) -> Floats: ...

    @property
    def texts_per_s(self) -> float: ...


def tell_interim(trial: Tried) -> str:
    """What the user is told after a method, while others follow."""
    return (
        f"{trial.method}: {trial.right.mean():.3f} of {len(trial.held)} held-out rows right. Other methods "
        f"follow; to stop here, interrupt and take --method {trial.method}."
    )


class Method(Protocol[AnyTrial]):
    """A method of training a task."""

    def try_out(self) -> AnyTrial: ...

    def write(self, stage: Path) -> dict[str, Any]:
        """Trains on all rows and writes the files of the task's bundle into an empty folder.

        :return: the method's fields of the manifest, with ``report`` and ``licence``.
        """
        ...


def make_trial(
    method: str,
    held: Integers,
    logits: Floats,
    spec: TaskSpec,
    figures: dict[str, Any],
    speed: float,
    size: int,
    distances: Sequence[float] = (),
) -> Trial:
    """Calibrates and scores a method's held-out logits.

    :param logits: [held, labels]. :param speed: texts a second. :param size: bytes that a device loads.
    """
    import numpy as np
    from edgeslm_export.evaluate.metrics import accuracy_report

    truth, doubted = spec.truth[held], np.isin(held, spec.doubted)
    fitted = fit_calibration(log_softmax(logits), truth, doubted, spec.recalls)
    report = accuracy_report(fitted.verdicts, truth, spec.labels)
    right = np.array([verdict.best for verdict in fitted.verdicts], np.int64) == truth
    if doubted.any() and not doubted.all():
        kept = np.flatnonzero(~doubted)
        without = accuracy_report([fitted.verdicts[row] for row in kept.tolist()], truth[kept], spec.labels)
        report |= {"calibration_error": without["calibration_error"], "without_doubted": without["accuracy"]}
    scores = np.array([verdict.scores for verdict in fitted.verdicts])
    losses = -np.log(np.maximum(scores[np.arange(len(truth)), truth], _LEAST_LIKELY))
    return Trial(method, held, right, losses, fitted, distances, {**report, **figures}, speed, size)


def drift_reference(
    distances: Sequence[float], confidences: Sequence[float], answers: Sequence[int] = (), labels: int = 0
) -> dict[str, Any]:
    """Reference for drift detection on devices, in the form of ``edgeslm.bundle.manifest.DriftReference``.

    :param answers: predicted labels of the rows, as indices below ``labels``.
    """
    import numpy as np

    def quantiles(values: Sequence[float]) -> list[float]:
        spread = np.quantile(values, np.linspace(0, 1, _QUANTILES))
        return [float(value) for value in spread]  # unrounded: with a quantile of 1 all others would be lower

    counts = np.bincount(np.array(answers, np.int64), minlength=labels)
    return {
        "distances": quantiles(distances) if len(distances) else [],
        "confidences": quantiles(confidences),
        "labels": [round(float(count) / len(answers), 5) for count in counts] if labels else [],
    }


def folds_to_try(
    folds: Sequence[tuple[Integers, Integers]], enough: int = ENOUGH_TESTED
) -> Sequence[tuple[Integers, Integers]]:
    """As many of the first folds as have ``enough`` test rows in total; all folds if there are too few
    rows."""
    tested = 0
    for number, (_, test) in enumerate(folds, 1):
        tested += len(test)
        if tested >= enough:
            return folds[:number]
    return folds


def epochs_to_take(best: Sequence[int]) -> int:
    """Number of epochs for the final training: the mean best epoch of the folds, or 0 if the time limit ended
    the training of a fold."""
    return 0 if 0 in best else round(sum(best) / len(best))


def rows_aside(texts: Sequence[str], groups: Sequence[str] = ()) -> list[int]:
    """Indices of validation rows for early stopping. Rows with equal texts, or of one group, are either all
    included or all excluded. Empty if there are fewer than ``_ROWS_TO_WATCH`` rows."""
    import numpy as np

    if len(texts) < _ROWS_TO_WATCH:
        return []
    members, aside = equal_texts(texts, groups), list[int]()
    for group in np.random.default_rng(0).permutation(len(members)).tolist():
        if len(aside) + len(members[group]) <= len(texts) // _ROWS_ASIDE:
            aside += members[group]
    return sorted(aside)
