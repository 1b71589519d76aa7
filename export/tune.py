"""A task learned from labelled messages: logistic regression on a frozen encoder's embeddings.

Seconds for a few hundred rows. The embeddings come from the encoder bundle as a device runs it, int8
included, so training and use see the same vectors. The method: multinomial logistic regression with its
strength chosen by stratified cross-validation, temperature scaling on the out-of-fold logits (Guo et al.
2017).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from edgeslm_export.evaluate import embed_texts, load_encoder
from edgeslm_export.package import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.rows import LabelledRow, load_rows

from edgeslm.bundle import Manifest, Source, load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Inverse regularization strengths (scikit-learn's C) that are tried."""
FOLDS = 5
FEWEST_ROWS = 2
"""Rows of each label that are needed: one to learn from and one to test with."""
_SEED = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """``weight`` [labels, dimension], ``bias`` [labels]; ``logits`` [rows, labels] are out of fold."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    strength: float
    temperature: float
    logits: Floats


@dataclass(frozen=True, slots=True)
class Task:
    """What TASK.yaml says. ``labels`` is empty when the data decides; ``model`` is "" when none is named."""

    name: str
    labels: tuple[str, ...]
    model: str


def load_task(file: Path) -> Task:
    """Reads one entry of ``tasks:`` with its ``name``.

    :raises ExportError: not such an entry, or a task that isn't classification.
    """
    try:
        # Every scalar a text, as labels are in the configuration: one called yes stays yes.
        data = yaml.load(file.read_text("utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ExportError(f"{file} can't be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ExportError(f"{file} is not YAML{line}: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(data, dict):
        raise ExportError(f"{file} is no task; write name:, kind: classify and labels: into it.")
    name, kind, labels = data.get("name"), data.get("kind", "classify"), data.get("labels") or ()
    if not isinstance(name, str) or not name:
        raise ExportError(f"{file} has no name; add name: with the task's name.")
    if kind != "classify":
        raise ExportError(
            f"{file}: the task {name} is of kind {kind}; only classify can be learned from labels."
        )
    if not isinstance(labels, (Mapping, Sequence)) or isinstance(labels, str):
        raise ExportError(f"{file}: labels must be a list, or a mapping of labels to what they mean.")
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        raise ExportError(f"{file}: the label {wrong[0]!r} is no text; write one text a label.")
    return Task(name, tuple(labels), str(data.get("model") or ""))


def tune(task: Task, data: Path, out: Path, encoder: Path) -> tuple[Manifest, dict[str, Any]]:
    """Learns ``task`` from ``data`` on the encoder bundle ``encoder`` and writes the head bundle ``out``.

    :return: the manifest and the report.
    :raises ExportError: rows that can't be used, or too few of a label.
    :raises BundleError: ``encoder`` is no encoder bundle or is damaged.
    """
    import numpy as np

    rows = load_rows(data, task.labels)
    labels = task.labels or tuple(sorted({row.label for row in rows}))
    _check_counts(rows, labels, data)
    bundle = load_bundle(encoder)
    with staged(out) as stage:
        vectors = embed_texts(load_encoder(encoder), [row.text for row in rows])
        truth = np.array([labels.index(row.label) for row in rows], np.int64)
        learned = learn(vectors, truth, len(labels))
        np.savez(stage / "head.npz", weight=learned.weight, bias=learned.bias)
        report = _report(learned, truth, labels)
        write_report(stage, report)
        fields = {
            "name": f"{task.name}-head",
            "kind": "head",
            "architecture": "logistic-regression",
            "source": Source(id=data.name, revision=f"sha256:{_digest(rows)}"),
            "context_length": bundle.manifest.context_length,
            "head": {
                "task": task.name,
                "labels": labels,
                "encoder": bundle.digest,
                "weights": "head.npz",
                "temperature": learned.temperature,
                "rows": len(rows),
            },
            "runtime": runtime_versions("onnxruntime", "scikit-learn"),
            "created": created_at(""),
        }
        manifest = write_manifest(stage, fields)
    return manifest, report


def learn(vectors: npt.NDArray[np.float32], truth: Integers, labels: int) -> Learned:
    """Chooses the strength, fits the temperature on out-of-fold logits, and fits on all rows.

    :param vectors: [rows, dimension]; ``truth``: [rows], indices below ``labels``, each at least twice.
    """
    import numpy as np
    from edgeslm_export.statistics import fit_temperature, softmax
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.bincount(truth, minlength=labels).min()))
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=_SEED).split(vectors, truth))
    best: tuple[float, float, Floats] | None = None
    for strength in STRENGTHS:
        logits = np.zeros((len(truth), labels))
        for train, test in splits:
            weight, bias = _fit(vectors[train], truth[train], strength, labels)
            logits[test] = vectors[test] @ weight.T + bias
        chosen = softmax(logits / fit_temperature(logits, truth))[np.arange(len(truth)), truth]
        loss = float(-np.log(np.maximum(chosen, 1e-12)).mean())
        if best is None or loss < best[0]:
            best = (loss, strength, logits)
    if best is None:
        raise ExportError("No strength could be tried.")
    _, strength, logits = best
    weight, bias = _fit(vectors, truth, strength, labels)
    return Learned(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        strength=strength,
        temperature=round(fit_temperature(logits, truth), 4),
        logits=logits,
    )


def _fit(
    vectors: npt.NDArray[np.float32], truth: Integers, strength: float, labels: int
) -> tuple[Floats, Floats]:
    """:return: weight [labels, dimension] and bias [labels]; two labels are given a row each."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not quite converged is good enough for one strength of several
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-4).fit(vectors, truth)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if labels == 2:
        return np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias


def _check_counts(rows: Sequence[LabelledRow], labels: Sequence[str], data: Path) -> None:
    if len(labels) < 2:
        raise ExportError(f"{data} has one label only ({labels[0]}); at least two are needed to tell apart.")
    counts = Counter(row.label for row in rows)
    for label in labels:
        if counts[label] < FEWEST_ROWS:
            raise ExportError(
                f"{data} has {counts[label]} rows with the label {label!r}; add some (at least "
                f"{FEWEST_ROWS}, 20 or more to be useful) or take it out of the task."
            )


def _report(learned: Learned, truth: Integers, labels: Sequence[str]) -> dict[str, Any]:
    from edgeslm_export.statistics import accuracy_report, softmax

    figures = accuracy_report(softmax(learned.logits / learned.temperature), truth, labels)
    return {
        "kind": "head",
        "method": f"logistic regression on frozen embeddings, {FOLDS}-fold cross-validation",
        **figures,
        "strength": learned.strength,
        "temperature": learned.temperature,
    }


def _digest(rows: Sequence[LabelledRow]) -> str:
    """SHA-256 of the rows' content: the same for a CSV and for JSON lines."""
    import hashlib
    import json

    content = "\n".join(json.dumps([row.text, row.label]) for row in rows)
    return hashlib.sha256(content.encode()).hexdigest()
