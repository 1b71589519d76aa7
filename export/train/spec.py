"""Training specification: what is learned, on what, within which budget, and how trials came out.

A method is tried on rows that it did not learn from, through the graph that a device runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from edgeslm_export.data.rows import equal_texts
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
"""Rows that are enough to test what takes minutes: no more folds are tried than have so many, but for few
rows each in turn. A wanted error of 0.02 can't be promised by fewer than some hundred."""
ENOUGH_TESTED_SLOWLY: Final = 100
"""The same of what may take an hour."""
SURE: Final = 0.6
"""Confidence from which on a teacher's answer is learned from, unless another is wanted."""
_QUANTILES: Final = 51
_LEAST_LIKELY: Final = 1e-3
"""A true label counts as no less likely than this: one row must not outweigh all others."""
_ROWS_TO_WATCH: Final = 250
_ROWS_ASIDE: Final = 10
"""Of so many rows that are learned from one is kept aside to see when to stop, where there are enough."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What can be learned on: an encoder's ``bundle``, its float ``checkpoint``; a decoder's bundle ``base``
    with the float checkpoint ``decoder`` that it was made of."""

    bundle: Path | None = None
    checkpoint: Origin | None = None
    base: Path | None = None
    decoder: Origin | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How it is learned: ``methods`` are those of METHODS that are tried, none for what is possible; each
    may take ``seconds``, 0 being no limit; ``recalls`` are shares of labels' rows that are to be found."""

    methods: tuple[str, ...] = ()
    seconds: float = 0.0
    recalls: Mapping[str, float] = field(default_factory=dict)
    announce: Announce = print
    on_progress: OnProgress | None = None
    debug: bool = False

    def wants(self, *methods: str) -> bool:
        """Whether any of these may be tried."""
        return not self.methods or bool(set(methods) & set(self.methods))


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Rows to learn from, and the folds to try a method with.

    ``truth`` [rows] are indices of ``labels``; ``shares`` [rows, labels] say how likely each label is, of
    rows that a teacher labelled. ``instruction`` is what a decoder is told. ``doubted`` are rows whose label
    is probably wrong: nothing is learned from them and no confidence fitted on them, but accuracy counts them
    too, or it would be that of the easy rows. ``recalls`` are the shares of some labels' rows that are wanted
    to be found.
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
        """The rows that are learned from in the end."""
        import numpy as np

        return np.setdiff1d(np.arange(len(self.texts)), np.array(self.doubted, np.int64))


@dataclass(frozen=True, slots=True)
class Trial:
    """What one method says of the rows ``held`` that it did not learn from.

    ``right`` [held] says which answers a device would get right, ``losses`` [held] how unlikely it calls the
    true ones, ``fitted`` what the engine's probabilities are worth; ``distances`` [held] how far the rows lie
    from what was learned, empty where a method has no vectors; ``figures`` go into the report.
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
    """What trials of both kinds have: ``right`` says of each row of ``held`` whether its answer was,
    ``losses`` how bad it was, less being better; ``texts_per_s`` are those of a device."""

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


class Method(Protocol[AnyTrial]):
    """One method to learn a task."""

    def try_out(self) -> AnyTrial: ...

    def write(self, stage: Path) -> dict[str, Any]:
        """Learns from all rows and writes the bundle's files into an empty folder.

        :return: the manifest's fields that follow from the method, with ``report`` and ``licence``.
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
    """:param logits: [held, labels]. :param speed: texts a second. :param size: bytes that a device loads."""
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
    """What a device compares its messages with: ``edgeslm.bundle.manifest.DriftReference``.

    :param answers: the labels that the rows were given, as indices below ``labels``.
    """
    import numpy as np

    def quantiles(values: Sequence[float]) -> list[float]:
        spread = np.quantile(values, np.linspace(0, 1, _QUANTILES))
        return [float(value) for value in spread]  # a confidence rounded to 1 would call all others less sure

    counts = np.bincount(np.array(answers, np.int64), minlength=labels)
    return {
        "distances": quantiles(distances) if len(distances) else [],
        "confidences": quantiles(confidences),
        "labels": [round(float(count) / len(answers), 5) for count in counts] if labels else [],
    }


def folds_to_try(
    folds: Sequence[tuple[Integers, Integers]], enough: int = ENOUGH_TESTED
) -> Sequence[tuple[Integers, Integers]]:
    """The first that test ``enough`` rows together, or all."""
    tested = 0
    for number, (_, test) in enumerate(folds, 1):
        tested += len(test)
        if tested >= enough:
            return folds[:number]
    return folds


def epochs_to_take(best: Sequence[int]) -> int:
    """In how many epochs all rows are taught, by what was best in the folds; 0 if the clock ended one."""
    return 0 if 0 in best else round(sum(best) / len(best))


def rows_aside(texts: Sequence[str]) -> list[int]:
    """Which of the rows are watched while the others are learned from, equal texts together; none of few."""
    import numpy as np

    if len(texts) < _ROWS_TO_WATCH:
        return []
    members, aside = equal_texts(texts), list[int]()
    for group in np.random.default_rng(0).permutation(len(members)).tolist():
        if len(aside) + len(members[group]) <= len(texts) // _ROWS_ASIDE:
            aside += members[group]
    return sorted(aside)
