"""Label bias of an untrained decoder: batch calibration (Zhou et al., 2024, arXiv 2309.17249).

A node divides the probabilities of each message by the biases of the labels, which the configuration holds
(``bundle.calibration.without_bias``). The biases are such that the mean probability of each label over
unlabelled messages is the share of messages that are expected to have this label (prior matching, Liusie et
al., 2023, arXiv 2309.04992). Answers don't depend on the messages that a node has seen before.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgeslm_export.data.rows import LabelledRow, bare_text
from edgeslm_export.evaluate.report_card import examine_bundle
from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.subprocess_job import OnProgress

from edgeslm.bundle.calibration import LEAST_PROBABILITY
from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError

FEWEST_TEXTS: Final = 16
MOST_TEXTS: Final = 256
"""More texts are sampled: the mean hardly changes, and a decoder takes up to seconds for each."""
_DIGITS: Final = 6
_ROUNDS: Final = 200
_STEP: Final = 0.5
"""Exponent of each step of the fixed-point iteration; with 1 it can oscillate."""
_ROUNDING: Final = 1e-6


def check_untaught(bundle: Path) -> None:
    """:raises ExportError: the bundle is neither a decoder nor a zero-shot encoder."""
    manifest = load_bundle(bundle).manifest
    if manifest.kind != "decoder" and manifest.zero_shot is None:
        raise ExportError(
            f"{bundle} is not a decoder or zero-shot encoder; trained tasks are calibrated by tune."
        )


def measure_label_bias(
    name: str,
    section: TaskSection,
    bundle: Path,
    texts: Sequence[str],
    expected: Mapping[str, float] = MappingProxyType({}),
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, float]:
    """Runs the task on unlabelled texts and returns each label's bias; the biases sum to 1.

    :param expected: expected share of the messages of some labels; see ``label_shares``.
    :raises ExportError: the task is not for an untrained decoder, there are too few texts, or the expected
        shares are impossible.
    """
    if section.kind != "classify" or not section.labels:
        raise ExportError(f"The task {name} must be of kind classify and list its labels.")
    check_untaught(bundle)
    single = list({bare_text(text): text for text in texts}.values())
    if len(single) < FEWEST_TEXTS:
        raise ExportError(f"{len(single)} different texts are too few; at least {FEWEST_TEXTS} are needed.")
    if len(single) > MOST_TEXTS:
        single = random.Random(0).sample(single, MOST_TEXTS)
    labels = tuple(section.labels)
    shares = label_shares(labels, expected)
    rows = [LabelledRow(number, text, labels[0]) for number, text in enumerate(single, 1)]
    plain = section.model_copy(update={"calibration": "none"})
    exam = Exam(name, plain, rows, with_answers=True)
    report = examine_bundle(bundle, exam, on_progress=on_progress, debug=debug)
    return label_bias([answer["scores"] for answer in report["answers"] if answer is not None], shares)


def label_shares(labels: Sequence[str], expected: Mapping[str, float]) -> dict[str, float]:
    """The expected share of each label: labels that ``expected`` doesn't name share the rest equally.

    :raises ExportError: ``expected`` names an unknown label, or nothing is left for the others.
    """
    if unknown := [label for label in expected if label not in labels]:
        raise ExportError(f"{unknown[0]!r} is none of the labels {', '.join(labels)}.")
    others = len(labels) - len(expected)
    rest = 1 - sum(expected.values())
    if rest < -_ROUNDING or (others and rest <= 0) or (not others and rest > _ROUNDING):
        raise ExportError(f"The expected shares sum to {1 - rest:g}; the shares of all labels must sum to 1.")
    return {label: expected.get(label, rest / max(others, 1)) for label in labels}


def label_bias(scores: Sequence[Mapping[str, float]], shares: Mapping[str, float]) -> dict[str, float]:
    """The bias of each label. No bias is 0, since nodes divide by it.

    :param scores: label probabilities of each message. :param shares: expected share of each label.
    """
    import numpy as np

    probabilities = np.maximum([[of[label] for label in shares] for of in scores], LEAST_PROBABILITY)
    expected = np.array(list(shares.values()))
    bias = np.ones(len(expected))
    for _ in range(_ROUNDS):
        means = (probabilities / bias / (probabilities / bias).sum(axis=1, keepdims=True)).mean(axis=0)
        bias *= (means / expected) ** _STEP
        bias /= bias.sum()
    rounded = (max(round(float(of), _DIGITS), LEAST_PROBABILITY) for of in bias)
    return dict(zip(shares, rounded, strict=True))
