"""Training cost: expected time of each training of a ``tune``, and the time left while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.device import CPU
from edgeslm_export.jobs.resources import matmul_gflops
from edgeslm_export.jobs.time_left import TimeLeft, duration
from edgeslm_export.train.contrastive import MOST_PAIRS
from edgeslm_export.train.decoder_methods import BYTES_A_WEIGHT as DECODER_BYTES
from edgeslm_export.train.decoder_methods import schedule_for as decoder_schedule
from edgeslm_export.train.encoder_finetune import LONGEST
from edgeslm_export.train.encoder_finetune import schedule_for as encoder_schedule
from edgeslm_export.train.encoder_methods import BYTES_A_WEIGHT as ENCODER_BYTES
from edgeslm_export.train.encoder_methods import ROWS_FOR_LABELS
from edgeslm_export.train.field_spec import FieldSpec
from edgeslm_export.train.lora_training import can_train_adapters
from edgeslm_export.train.spec import (
    ENCODER,
    ENOUGH_TESTED_SLOWLY,
    HEAD,
    LORA,
    QLORA,
    Budget,
    Inputs,
    TaskSpec,
    folds_to_try,
)

_CHARACTERS_A_TOKEN: Final = 3.5
_PADDING: Final = 2.0
"""Tokens that a row has besides its words."""
_OPERATIONS: Final = {ENCODER: 10.0, LORA: 4.0, QLORA: 8.0}
"""Time of a training for each weight and token, as the number of float operations that a matrix product
computes in that time. Measured with MiniLM-L6 (10.7, embeddings included) and SmolLM2-135M (3.9)."""
_FIXED: Final = {ENCODER: 3e12, LORA: 4e12, QLORA: 4e12}
"""The same of each training for loading, export and evaluation, whatever the rows."""
_HEAD: Final = 4e11
_TRAINING: Final = "training"
"""Begins what trainings report as progress."""


def timed(budget: Budget, spec: TaskSpec | FieldSpec, inputs: Inputs, notes: Notes) -> Budget:
    """Tells the user the expected time. :return: the budget with the time left in its progress."""
    gflops = matmul_gflops()
    steps = expected_steps(spec, inputs, budget, notes, gflops)
    whole = sum(steps.values())
    slow = {name: time for name, time in steps.items() if not _is_on_gpu(name, budget, inputs)}
    unlimited = expected_steps(spec, inputs, replace(budget, seconds=0), notes, gflops)
    for sentence in _too_short(slow, unlimited, budget):
        budget.announce(sentence)
    where = "on this machine" if slow == steps else "on this machine's CPU; the GPU's time isn't known"
    budget.announce(f"Training takes about {duration(whole)} {where}.")
    if budget.on_progress is None:
        return budget
    pace = TimeLeft(
        budget.on_progress, steps, counts=lambda what: what.startswith(_TRAINING), expected_s=whole
    )

    def begin(step: str) -> None:
        if step in steps:
            pace.begin(step)

    return replace(budget, on_progress=pace, begin=begin)


def _is_on_gpu(step: str, budget: Budget, inputs: Inputs) -> bool:
    method = step.partition("-")[0]
    origin = {ENCODER: inputs.checkpoint, LORA: inputs.decoder, QLORA: inputs.decoder}.get(method)
    if origin is None:  # a head
        return False
    needed = origin.weights * {ENCODER: ENCODER_BYTES, **DECODER_BYTES}[method]
    return budget.device.fitting(needed, "Training", lambda _: None) != CPU


def _too_short(steps: Mapping[str, float], unlimited: Mapping[str, float], budget: Budget) -> Iterator[str]:
    """Sentences on methods for which the time limit is probably too short, so that they would fail."""
    for method in (ENCODER, LORA, QLORA):
        names = [name for name in steps if name.startswith(f"{method}-")]
        cut = sum(unlimited[name] - steps[name] for name in names)
        if budget.seconds and cut > budget.seconds:  # less than half of the rows would be seen
            needed = duration(budget.seconds + cut)
            yield (
                f"The method {method} takes about {needed} here, so --minutes {budget.seconds / 60:g} is "
                "probably too short; allow more, or take another --method."
            )


def expected_steps(
    spec: TaskSpec | FieldSpec, inputs: Inputs, budget: Budget, notes: Notes, gflops: float
) -> dict[str, float]:
    """Expected seconds of each training that isn't done yet, by name and in order: rough, and too long if a
    training stops early or another method is better."""
    steps: dict[str, float] = {}
    if budget.wants(HEAD) and inputs.bundle is not None and isinstance(spec, TaskSpec):
        steps[HEAD] = _HEAD / gflops / 1e9
    if budget.wants(ENCODER) and inputs.checkpoint is not None:
        folds = [len(train) for train, _ in folds_to_try(spec.folds)]
        steps |= _method(ENCODER, spec, folds, inputs.checkpoint.weights, gflops, budget, notes)
    if inputs.base is not None and inputs.decoder is not None and can_train_adapters():
        few = folds_to_try(spec.folds, ENOUGH_TESTED_SLOWLY)
        few = few[:1] if isinstance(spec, FieldSpec) else few
        for method in (LORA, QLORA):
            if method in (budget.methods or (LORA,)):
                rows = [len(train) for train, _ in few]
                steps |= _method(method, spec, rows, inputs.decoder.weights, gflops, budget, notes)
    return steps


def _method(
    method: str,
    spec: TaskSpec | FieldSpec,
    folds: Sequence[int],
    weights: int,
    gflops: float,
    budget: Budget,
    notes: Notes,
) -> dict[str, float]:
    """The trainings of one method: a fold's or, at last, that of all rows."""
    count = len(spec.texts)
    rows = {**{f"{method}-{number}": size for number, size in enumerate(folds)}, f"{method}-all": count}
    tokens = sum(min(LONGEST, len(text) / _CHARACTERS_A_TOKEN + _PADDING) for text in spec.texts) / count
    per_s = gflops * 1e9
    found = {}
    for name, size in rows.items():
        seconds = _read(method, spec, size) * tokens * weights * _OPERATIONS[method] / per_s
        if budget.seconds:
            seconds = min(seconds, budget.seconds * size / sum(rows.values()))
        if name.endswith("-all") or notes.load(name) is None:
            found[name] = seconds + _FIXED[method] / per_s
    return found


def _read(method: str, spec: TaskSpec | FieldSpec, rows: int) -> int:
    """Number of texts that a training on ``rows`` reads."""
    count = len(spec.texts)
    if method != ENCODER:
        return rows * decoder_schedule(count).epochs
    if isinstance(spec, FieldSpec) or count >= ROWS_FOR_LABELS:
        return rows * encoder_schedule(count).epochs
    pairs = rows * (rows + 1) // 2
    return 2 * min(MOST_PAIRS, pairs)
