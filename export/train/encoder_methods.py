"""Encoder methods: train a head on a frozen encoder, or fine-tune the encoder too.

A fine-tuned encoder is part of its task's bundle. With few rows an encoder is trained on pairs
(``contrastive``), with more rows on labels (``encoder_finetune``).
"""

from __future__ import annotations

import abc
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.bundle.writer import runtime_versions
from edgeslm_export.evaluate.report_card import embed_texts, load_encoder
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.models.encoder import fill_encoder, read_pooling
from edgeslm_export.sources.checkpoint import Origin, examine_local
from edgeslm_export.train.contrastive import PAIRS, train_contrastive
from edgeslm_export.train.encoder_finetune import LONGEST, load_layer, schedule_for, train_encoder
from edgeslm_export.train.field_spec import FieldSpec
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.logistic_head import fit_layer, learn
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.spec import (
    ENCODER,
    HEAD,
    Budget,
    TaskSpec,
    Trial,
    epochs_to_take,
    folds_to_try,
    make_trial,
    rows_aside,
)

from edgeslm.bundle.manifest import load_bundle

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeslm.engine.worker.encoder import Encoder

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

ROWS_FOR_LABELS: Final = 250
"""Minimum number of rows for training an encoder on labels; with fewer rows it is trained on pairs. Pairs
were better with 50 rows and labels with 1,000; the crossover was not measured."""
WEIGHTS: Final = "head.npz"
_STRENGTH: Final = 30.0
"""Inverse regularization strength (scikit-learn's C) of the classifier that is fitted after training on
pairs. Weak regularization is enough, since training on pairs already separates the embeddings of different
labels."""
_MOST_CENTROIDS: Final = 64
_ROWS_A_CENTROID: Final = 8
_ROWS_FOR_CENTROIDS: Final = 2000
BYTES_A_WEIGHT: Final = 20
"""Memory that a training takes, in bytes a weight: weights, gradients and AdamW's two moments in float32, and
activations."""
ENCODER_FIELDS: Final = ("architecture", "quantization", "context_length", "graphs", "encoder")


class HeadMethod:
    """Trains a head on an encoder's bundle."""

    def __init__(self, bundle: Path, spec: TaskSpec) -> None:
        self._bundle, self._spec = load_bundle(bundle), spec

    def try_out(self) -> Trial:
        import numpy as np

        spec = self._spec
        encoder = load_encoder(self._bundle.path)
        started = time.monotonic()
        vectors = embed_texts(encoder, spec.texts)
        speed = len(vectors) / max(1e-9, time.monotonic() - started)
        self._learned = learn(
            vectors, spec.truth, len(spec.labels), spec.folds, spec.shares, rows=spec.learned
        )
        self._centroids = centroids_of(vectors[spec.learned])
        distances = np.concatenate(
            [distances_from(centroids_of(vectors[train]), vectors[test]) for train, test in spec.folds]
        )
        figures = {"strength": self._learned.strength}
        size = self._bundle.weight_bytes
        return make_trial(
            HEAD, self._learned.held, self._learned.logits, spec, figures, speed, size, distances.tolist()
        )

    def write(self, stage: Path) -> dict[str, Any]:
        _save_layer(stage, self._learned.weight, self._learned.bias, self._centroids)
        return {
            "architecture": "logistic-regression",
            "context_length": self._bundle.manifest.context_length,
            "kind": "head",
            "head": {"encoder": self._bundle.digest, "weights": WEIGHTS},
            "licence": self._bundle.manifest.source.licence,
            "runtime": runtime_versions("onnxruntime", "scikit-learn"),
        }


class FineTunedEncoder(abc.ABC):
    """Fine-tunes an encoder: once for each fold, then on all rows."""

    def __init__(
        self, origin: Origin, spec: TaskSpec | FieldSpec, budget: Budget, notes: Notes, work: Path
    ) -> None:
        self._origin, self._budget, self._notes, self._work = origin, budget, notes, work
        self._texts = spec.texts
        self._section, context_length = read_pooling(origin.path)
        self._length = min(LONGEST, context_length)
        self._folds = folds_to_try(spec.folds)
        self._rows_taught = sum(len(train) for train, _ in self._folds) + len(spec.texts)
        self._epochs = 0
        self._device = budget.device_for(origin.weights, BYTES_A_WEIGHT)

    def _try_folds(self) -> list[dict[str, Any]]:
        """The results of all folds as dicts, in which ``epochs`` is the fold's best epoch. Folds with saved
        results aren't trained again."""
        found = []
        for number, (train, test) in enumerate(self._folds):
            name = f"{ENCODER}-{number}"
            fold = self._notes.load(name)
            if fold is None:
                folder = self._work / name
                folder.mkdir()
                fold = self._try_fold(folder, train, test)
                shutil.rmtree(folder)
                self._notes.save(name, fold)
                self._notes.state(name).unlink(missing_ok=True)
            found.append(fold)
        self._epochs = epochs_to_take([fold["epochs"] for fold in found])
        return found

    @abc.abstractmethod
    def _try_fold(self, folder: Path, train: Integers, test: Integers) -> dict[str, Any]:
        """Trains on ``train`` in an empty ``folder``. :return: results on ``test``, as JSON."""

    def _texts_of(self, rows: Integers) -> list[str]:
        return [self._texts[row] for row in rows.tolist()]

    def _job(self, name: str, rows: Integers, schedule: Schedule, aside: Sequence[int]) -> TrainingJob:
        """The job that trains on ``rows``. The job's time limit is a share of the method's time limit, in
        proportion to the number of rows. :param aside: indices in ``rows`` of the rows for validation.

        :raises ExportError: this machine has too little memory or disk.
        """
        seconds = self._budget.seconds * len(rows) / self._rows_taught
        self._budget.begin(name)
        check_resources(self._origin.weights, self._origin.weights * 20, self._work, BYTES_A_WEIGHT)
        return TrainingJob(
            self._origin.path,
            self._work / "taught",
            schedule.limited(self._epochs, seconds),
            aside,
            self._notes.state(name),
            self._budget.on_progress,
            self._budget.debug,
            self._device,
        )

    def _head_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest fields of the head's bundle, made from the fields that ``fill_finetuned`` returned."""
        source = self._origin.source
        return {
            **{key: fields[key] for key in ENCODER_FIELDS},
            "kind": "head",
            "head": {"weights": WEIGHTS},
            "report": {**fields["report"], "base": f"{source.id} {source.revision}".strip()},
            "licence": source.licence,
            "runtime": runtime_versions("onnxruntime", "torch", "transformers"),
        }


def fill_finetuned(
    taught: Path, origin: Origin, folder: Path, budget: Budget, recipe: str = DEFAULT_RECIPE
) -> dict[str, Any]:
    """Writes an encoder's bundle to ``folder`` from the checkpoint ``taught``, fine-tuned from ``origin``.

    :return: the bundle's manifest fields, and ``report``, the bundle's similarity to the float model.
    """
    fields, likeness = fill_encoder(
        examine_local(taught, "encoder", origin.source),
        folder,
        budget.announce,
        recipe,
        on_progress=budget.on_progress,
        debug=budget.debug,
    )
    return {**fields, "report": {"cosine_to_float": likeness["cosine_to_float"]}}


class EncoderMethod(FineTunedEncoder):
    """Fine-tunes an encoder with a classification layer."""

    def __init__(self, origin: Origin, spec: TaskSpec, budget: Budget, notes: Notes, work: Path) -> None:
        super().__init__(origin, spec, budget, notes, work)
        self._spec = spec
        self._by_pairs = len(spec.texts) < ROWS_FOR_LABELS

    def try_out(self) -> Trial:
        import numpy as np

        found = self._try_folds()
        rows = np.concatenate([test for _, test in self._folds])
        logits = np.concatenate([np.array(fold["logits"]) for fold in found])
        speed = len(rows) / max(1e-9, sum(fold["seconds"] for fold in found))
        figures: dict[str, Any] = {"taught_by": "pairs" if self._by_pairs else "labels"}
        if self._epochs:
            figures["epochs"] = self._epochs
        figures["peak_rss"] = max(fold["peak_rss"] for fold in found)
        distances = [distance for fold in found for distance in fold["distances"]]
        return make_trial(ENCODER, rows, logits, self._spec, figures, speed, found[0]["bytes"], distances)

    def _try_fold(self, folder: Path, train: Integers, test: Integers) -> dict[str, Any]:
        aside = rows_aside(self._texts_of(train))
        _, (weight, bias), said = self._teach(train, folder, folder.name, aside)
        encoder = load_encoder(folder)
        started = time.monotonic()
        vectors = embed_texts(encoder, self._texts_of(test))
        seconds = time.monotonic() - started
        centroids = centroids_of_texts(encoder, self._texts_of(train))
        return {
            "logits": (vectors @ weight.T + bias).tolist(),
            "seconds": seconds,
            "distances": distances_from(centroids, vectors).tolist(),
            "bytes": encoder.bundle.weight_bytes,
            "epochs": said["best_epoch"],
            "peak_rss": said["peak_rss"],
        }

    def write(self, stage: Path) -> dict[str, Any]:
        rows = self._spec.learned
        fields, layer, _ = self._teach(rows, stage, f"{ENCODER}-all", ())
        _save_layer(stage, *layer, centroids_of_texts(load_encoder(stage), self._texts_of(rows)))
        return self._head_fields(fields)

    def _teach(
        self, rows: Integers, folder: Path, name: str, aside: Sequence[int]
    ) -> tuple[dict[str, Any], tuple[Floats, Floats], dict[str, Any]]:
        """Fine-tunes the checkpoint on ``rows`` and writes an encoder's bundle to ``folder``.

        :param aside: indices in ``rows`` of the rows for validation.
        :return: the bundle's manifest fields, weight and bias of the layer, and figures of the training.
        """
        spec, truth, texts = self._spec, self._spec.truth[rows], self._texts_of(rows)
        job = self._job(name, rows, PAIRS if self._by_pairs else schedule_for(len(spec.texts)), aside)
        what = self._section, self._length, texts
        if self._by_pairs:
            said = train_contrastive(job, *what, truth.tolist())
        else:
            wanted = truth if spec.shares is None else spec.shares[rows]
            said = train_encoder(job, *what, wanted.tolist(), len(spec.labels))
        fields = fill_finetuned(job.out, self._origin, folder, self._budget)
        if self._by_pairs:
            vectors = embed_texts(load_encoder(folder), texts)
            layer: tuple[Floats, Floats] = fit_layer(vectors, truth, _STRENGTH, len(spec.labels))
        else:
            layer = load_layer(job.out)
        shutil.rmtree(job.out)
        return fields, layer, said


def centroids_of_texts(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Centroids of training texts, or of a sample if there are many texts."""
    import numpy as np

    some = np.random.default_rng(0).permutation(len(texts))[:_ROWS_FOR_CENTROIDS]
    return centroids_of(embed_texts(encoder, [texts[row] for row in some.tolist()]))


def centroids_of(vectors: Floats) -> Floats:
    """Centroids of ``vectors`` [rows, dimension] by k-means, as unit vectors [groups, dimension]."""
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    groups = max(1, min(_MOST_CENTROIDS, len(np.unique(units, axis=0)) // _ROWS_A_CENTROID))
    with threadpool_limits(1):
        centers = KMeans(groups, n_init=1, random_state=0).fit(units).cluster_centers_
    return np.asarray(centers / np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12), np.float32)


def distances_from(centroids: Floats, vectors: Floats) -> Floats:
    """Each row's cosine distance (1 minus the cosine) from the nearest centroid, [rows], as a device computes
    it."""
    import numpy as np

    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    return np.asarray(1 - (vectors @ centroids.T).max(axis=1) / lengths)


def _save_layer(folder: Path, weight: Floats, bias: Floats, centroids: Floats) -> None:
    save_arrays(folder, {"weight": weight, "bias": bias, "centroids": centroids})


def save_arrays(folder: Path, arrays: Mapping[str, Floats]) -> None:
    """Writes a head's weights file."""
    import numpy as np

    floats: dict[str, Any] = {name: values.astype(np.float32) for name, values in arrays.items()}
    np.savez(folder / WEIGHTS, **floats)
