"""The ways to learn a classify task: a head on an encoder as it is, or the encoder taught too.

A way is tried on rows that it did not learn from, through the int8 graph that a device runs, and then writes
its bundle's files from all rows. Which one is taken is decided by ``edgeslm_export.tune``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.checkpoint import Origin, examine_local
from edgeslm_export.child import OnProgress
from edgeslm_export.contrast import MISSING, contrast_encoder, is_installed
from edgeslm_export.encoder import fill_encoder, read_pooling
from edgeslm_export.evaluate import embed_texts, load_encoder
from edgeslm_export.finetune import LONGEST, load_layer, schedule_for, teach_encoder
from edgeslm_export.head import fit_layer, learn
from edgeslm_export.package import runtime_versions
from edgeslm_export.resources import check_resources

from edgeslm.bundle import load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

HEAD: Final = "head"
ENCODER: Final = "encoder"
NEEDS_BUNDLE: Final = (
    "The method head needs an encoder's bundle (made by edgeslm-export encoder): name it with --encoder."
)
NEEDS_CHECKPOINT: Final = "The method encoder needs an encoder's checkpoint: name it with --encoder."
ROWS_FOR_LABELS: Final = 250
"""With fewer, an encoder is taught by pairs of rows instead of by their labels. Pairs were measured with 50
rows and labels with 1,000; where they cross was not."""
_STRENGTH: Final = 30.0
"""Of the classifier on an encoder that was taught by pairs: its embeddings lie apart already."""
_ROWS_FOR_ONE_FOLD: Final = 500
"""From so many rows on a fifth of them is enough to test a taught encoder; with fewer each fifth in turn."""
WEIGHTS: Final = "head.npz"
_BYTES_A_WEIGHT: Final = 20
"""Weights, gradients and AdamW's two moments in float32, and some activations."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What can be learned on: an encoder's bundle, its float checkpoint, or both."""

    bundle: Path | None = None
    checkpoint: Origin | None = None


@dataclass(frozen=True, slots=True)
class Effort:
    """How it is learned: ``method`` is HEAD, ENCODER or None for the best, ``seconds`` 0 no limit."""

    method: str | None = None
    seconds: float = 0.0
    announce: Callable[[str], None] = print
    on_progress: OnProgress | None = None
    debug: bool = False


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows to learn from, and the folds to try a way of learning with. ``truth`` [rows] are indices of
    ``labels``."""

    texts: Sequence[str]
    truth: Integers
    labels: tuple[str, ...]
    folds: Sequence[tuple[Integers, Integers]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one way of learning says of the rows ``held`` that it did not learn from.

    ``logits`` [held, labels] come from the engine; ``figures`` go into the report.
    """

    method: str
    held: Integers
    logits: Floats
    figures: dict[str, Any]
    texts_per_s: float
    temperature: float


class HeadWay:
    """A head on the encoder's bundle."""

    def __init__(self, bundle: Path, lesson: Lesson) -> None:
        self._bundle, self._lesson = load_bundle(bundle), lesson
        self.bytes = self._bundle.weight_bytes

    def try_out(self) -> Trial:
        lesson = self._lesson
        encoder = load_encoder(self._bundle.path)
        started = time.monotonic()
        vectors = embed_texts(encoder, lesson.texts)
        speed = len(vectors) / max(1e-9, time.monotonic() - started)
        self._learned = learn(vectors, lesson.truth, len(lesson.labels), lesson.folds)
        figures = {"strength": self._learned.strength}
        return _trial(HEAD, self._learned.held, self._learned.logits, lesson, figures, speed)

    def write(self, stage: Path) -> dict[str, Any]:
        _save_layer(stage, self._learned.weight, self._learned.bias)
        return {
            "architecture": "logistic-regression",
            "context_length": self._bundle.manifest.context_length,
            "head": {"encoder": self._bundle.digest},
            "licence": self._bundle.manifest.source.licence,
            "runtime": runtime_versions("onnxruntime", "scikit-learn"),
        }


class EncoderWay:
    """The encoder itself, taught: once for each fold that is tested on, then on all rows."""

    def __init__(self, origin: Origin, lesson: Lesson, effort: Effort, work: Path) -> None:
        self._origin, self._lesson, self._effort, self._work = origin, lesson, effort, work
        self._section, context_length = read_pooling(origin.path)
        self._length = min(LONGEST, context_length)
        self.bytes = 0
        self._folds = lesson.folds if len(lesson.texts) < _ROWS_FOR_ONE_FOLD else lesson.folds[:1]
        self._by_pairs = len(lesson.texts) < ROWS_FOR_LABELS
        self._rows_taught = sum(len(train) for train, _ in self._folds) + len(lesson.texts)

    def try_out(self) -> Trial:
        import numpy as np

        held, logits, seconds = [], [], 0.0
        for number, (train, test) in enumerate(self._folds):
            folder = self._work / f"fold-{number}"
            folder.mkdir()
            _, (weight, bias) = self._teach(train, folder)
            encoder = load_encoder(folder)
            started = time.monotonic()
            vectors = embed_texts(encoder, [self._lesson.texts[row] for row in test])
            seconds += time.monotonic() - started
            held.append(test)
            logits.append(vectors @ weight.T + bias)
            self.bytes = encoder.bundle.weight_bytes
            shutil.rmtree(folder)
        rows = np.concatenate(held)
        speed = len(rows) / max(1e-9, seconds)
        figures = {"taught_by": "pairs" if self._by_pairs else "labels"}
        return _trial(ENCODER, rows, np.concatenate(logits), self._lesson, figures, speed)

    def write(self, stage: Path) -> dict[str, Any]:
        import numpy as np

        fields, layer = self._teach(np.arange(len(self._lesson.texts)), stage)
        _save_layer(stage, *layer)
        base = self._origin.source
        return {
            **{key: fields[key] for key in _ENCODER_FIELDS},
            "head": {},
            "report": {**fields["report"], "base": f"{base.id} {base.revision}".strip()},
            "licence": self._origin.source.licence,
            "runtime": runtime_versions("onnxruntime", "torch", "transformers"),
        }

    def _teach(self, rows: Integers, folder: Path) -> tuple[dict[str, Any], tuple[Floats, Floats]]:
        """Teaches the checkpoint from ``rows`` and makes an encoder's bundle of it in ``folder``.

        :return: its manifest's fields, and ``weight`` and ``bias`` of the layer.
        """
        effort, lesson, taught = self._effort, self._lesson, self._work / "taught"
        texts, truth = [lesson.texts[row] for row in rows], lesson.truth[rows]
        seconds = effort.seconds * len(rows) / self._rows_taught
        how: dict[str, Any] = {"on_progress": effort.on_progress, "debug": effort.debug}
        check_resources(self._origin.weights, self._origin.weights * 8, self._work, _BYTES_A_WEIGHT)
        source = (self._origin.path, taught, self._section, self._length, texts, truth.tolist())
        if self._by_pairs:
            contrast_encoder(*source, seconds=seconds, **how)
        else:
            schedule = replace(schedule_for(len(lesson.texts)), seconds=seconds)
            teach_encoder(*source, len(lesson.labels), schedule, **how)
        origin = examine_local(taught, "encoder", self._origin.source)
        fields, likeness = fill_encoder(origin, folder, effort.announce, **how)
        fields["report"] = {"cosine_to_float": likeness["cosine_to_float"]}
        if self._by_pairs:
            vectors = embed_texts(load_encoder(folder), texts)
            layer: tuple[Floats, Floats] = fit_layer(vectors, truth, _STRENGTH, len(lesson.labels))
        else:
            layer = load_layer(taught)
        shutil.rmtree(taught)
        return fields, layer


_ENCODER_FIELDS: Final = ("architecture", "quantization", "context_length", "graphs", "encoder")
Way = HeadWay | EncoderWay


def make_ways(ground: Ground, lesson: Lesson, effort: Effort, work: Path) -> list[Way]:
    """What is tried, the cheapest first. :raises ExportError: the wanted method isn't possible here."""
    ways: list[Way] = []
    if ground.bundle is not None and effort.method != ENCODER:
        ways.append(HeadWay(ground.bundle, lesson))
    few = len(lesson.texts) < ROWS_FOR_LABELS and not is_installed()
    if few and ways and ground.checkpoint is not None:
        effort.announce(f"{MISSING} Only a head is tried.")
    elif ground.checkpoint is not None and effort.method != HEAD:
        ways.append(EncoderWay(ground.checkpoint, lesson, effort, work))
    if not ways:
        raise ExportError(NEEDS_BUNDLE if effort.method == HEAD else NEEDS_CHECKPOINT)
    return ways


def _trial(
    method: str, held: Integers, logits: Floats, lesson: Lesson, figures: dict[str, Any], speed: float
) -> Trial:
    from edgeslm_export.statistics import accuracy_report, calibrated, fit_temperature

    truth = lesson.truth[held]
    temperature = round(fit_temperature(logits, truth), 4)
    report = accuracy_report(calibrated(logits, truth), truth, lesson.labels)
    return Trial(method, held, logits, {**report, **figures}, speed, temperature)


def _save_layer(folder: Path, weight: Floats, bias: Floats) -> None:
    import numpy as np

    np.savez(folder / WEIGHTS, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
