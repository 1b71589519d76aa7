"""Training loop for all models, with AdamW (Loshchilov and Hutter 2019), warm-up and linear decay.

Training stops early when the validation loss no longer falls (Prechelt 1998), and an interrupted run resumes.
With a time budget the learning rate decays by the clock, so that it reaches zero even if the time ends before
the last epoch. The loss function gets rows as indices.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeslm_export.jobs.device import CPU
from edgeslm_export.jobs.subprocess_job import Reporter

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch

_WARM_UP = 0.1
_DECAY = 0.01
_MOST_NORM = 1.0
_BUCKET = 16
"""Number of batches that are formed at a time, from rows that were sorted by length to reduce padding."""
_PATIENCE = 2
"""Training stops after this many epochs in a row that are worse than the best one."""
_LEAST = 0.5
"""Minimum share of the first epoch that must be done when the time limit ends training; a model that was
trained less isn't useful."""
_FROZEN = 2
"""Number of the lowest layers that are frozen; never more than half of a model's layers."""
NOTED_S = 300.0
"""Seconds between two saved states: the maximum training time that an interruption loses. A saved state takes
some hundred megabytes."""
TEMPERATURES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Temperatures tried for the validation loss; see ``Training.losses_by_temperature``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and learning rate of a training. ``seconds`` is the time limit; 0 means none."""

    epochs: int
    batch: int
    rate: float
    seconds: float = 0.0
    seed: int = 0

    def limited(self, epochs: int, seconds: float) -> Schedule:
        """This schedule with a time limit and another number of epochs (the same number if ``epochs`` is
        0)."""
        return replace(self, epochs=epochs or self.epochs, seconds=seconds)


class BatchLoss(Protocol):
    """Function that computes the loss of the rows with the given indices."""

    def __call__(self, batch: Sequence[int], /) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Training:
    """What to train: a model, the ``parameters`` to optimize with their learning rates, and the loss.

    :param model: switched to training mode, and to evaluation mode for validation.
    :param lengths: number of tokens of each row. :param loss: mean loss of rows.
    :param aside: indices of rows for validation; without validation rows, all epochs are run.
    :param what: the step in words, for progress and errors.
    :param state: file for the run's state; if it exists, the interrupted run resumes.
    :param losses_by_temperature: validation losses at ``TEMPERATURES``, [temperatures, rows]; the losses at
        the best temperature are used, since models become overconfident long before their accuracy falls (Guo
        et al., 2017, section 3) and confidence is calibrated afterwards. By default ``loss`` is the
        validation loss.
    """

    model: torch.nn.Module
    parameters: Sequence[tuple[Sequence[torch.nn.Parameter], float]]
    lengths: Sequence[int]
    loss: BatchLoss
    aside: Sequence[int]
    what: str
    state: Path | None = None
    losses_by_temperature: BatchLoss | None = None
    most_tokens: int | None = None
    """Maximum number of tokens in a pass, padding included; a larger batch is split (gradient
    accumulation)."""
    noted_s: float = NOTED_S
    """Seconds between two saved states within an epoch."""


def run_training(training: Training, schedule: Schedule, reporter: Reporter) -> dict[str, Any]:
    """Trains a model. The final parameters are those of the best epoch, or the last ones if the time ended
    within an epoch.

    :return: a dict with ``epochs`` (number of epochs run), ``best_epoch`` (from 1; 0 if the time ended within
        an epoch), ``loss`` (of the last batch) and, if validated, ``loss_aside`` (lowest validation loss).
    :raises ExportError: the loss is no longer finite, or the time was too short for half an epoch.
    """
    import torch

    kept_aside = set(training.aside)
    rows = [row for row in range(len(training.lengths)) if row not in kept_aside]
    if not rows:
        raise ExportError(f"{training.what} has no rows to learn from: all are too long.")
    groups: list[dict[str, Any]] = [
        {"params": list(parameters), "lr": rate} for parameters, rate in training.parameters
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    weights = [weight for group in groups for weight in group["params"]]
    steps_an_epoch = -(-len(rows) // schedule.batch)
    steps = steps_an_epoch * schedule.epochs
    best = BestEpoch(weights)
    step, spent, loss = _load_state(training.state, optimizer, weights, best)
    epoch, noted = step // steps_an_epoch, time.monotonic()
    started = noted - spent
    training.model.train()
    while epoch < schedule.epochs and not best.is_over(epoch):
        for batch in islice(_batches(rows, training.lengths, schedule, epoch), step % steps_an_epoch, None):
            done = step / steps
            if schedule.seconds:
                done = max(done, (time.monotonic() - started) / schedule.seconds)
            if done >= 1:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (done + 1 / steps) / _WARM_UP) * (1 - done)
            optimizer.zero_grad()
            loss = 0.0
            for part in passes(batch, training.lengths, training.most_tokens):
                value = training.loss(part) * (len(part) / len(batch))
                _check_finite(float(value.detach()), training.what)
                value.backward()
                loss += float(value.detach())
            torch.nn.utils.clip_grad_norm_(weights, _MOST_NORM)
            optimizer.step()
            step += 1
            reporter.progress(step, steps, f"{training.what}, epoch {epoch + 1}")
            is_within = step < (epoch + 1) * steps_an_epoch
            if training.state is not None and is_within and time.monotonic() - noted >= training.noted_s:
                noted = time.monotonic()
                _save_state(training.state, optimizer, best, (step, noted - started, loss))
        if step < (epoch + 1) * steps_an_epoch:
            break
        epoch += 1
        if training.aside:
            aside = _losses_aside(training, schedule.batch)
            _check_finite(float(aside.mean()), training.what)
            best.see(epoch, aside)
        if training.state is not None:
            noted = time.monotonic()
            _save_state(training.state, optimizer, best, (step, noted - started, loss))
    if step < _LEAST * steps_an_epoch:
        raise ExportError(
            f"{training.what} finished {step} of {steps_an_epoch} batches in its time, less than half; allow "
            "more --minutes, or take a faster method."
        )
    is_whole = step == epoch * steps_an_epoch
    if training.aside and is_whole:
        best.restore()
    return {
        "epochs": round(step / steps_an_epoch, 2),
        "best_epoch": (best.epoch or epoch) if is_whole else 0,
        "loss": round(loss, 4),
        **({"loss_aside": round(float(best.losses.mean()), 4)} if best.epoch else {}),
    }


def freeze_lowest(model: Any) -> None:
    """Freezes an encoder's embeddings and lowest layers and turns dropout off. Freezing saves a third of the
    time, and a training set with few questions can't improve these layers."""
    import torch

    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(stacks, key=len, default=())
    for part in (model.get_input_embeddings(), *layers[: min(_FROZEN, len(layers) // 2)]):
        part.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            # Rows are seen only a few times, and dropout takes a fifth of the time.
            module.p = 0.0


def reproducible(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Those figures that every run reproduces: only these may be in a bundle's report, since the same input
    must give the same bundle."""
    return {key: value for key, value in figures.items() if key != "peak_rss"}


def passes(batch: Sequence[int], lengths: Sequence[int], most_tokens: int | None) -> list[Sequence[int]]:
    """Splits a batch into passes of at most ``most_tokens`` tokens, padding included; a pass has at least one
    row."""
    if most_tokens is None:
        return [batch]
    parts: list[list[int]] = []
    for row in sorted(batch, key=lambda row: lengths[row]):
        if parts and (len(parts[-1]) + 1) * lengths[row] <= most_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return list(parts)


def _check_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise ExportError(f"{what} gave numbers that aren't finite; try another model.")


class BestEpoch:
    """The parameters of the last epoch that isn't worse than the epoch with the lowest loss.

    An epoch is worse if its loss is higher by more than the standard error of the difference. With few
    validation rows, smaller differences between epochs may be due to chance, and longer training helps on
    rows that aren't in the validation set.
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter]) -> None:
        import torch

        self._weights = weights
        self.values: list[torch.Tensor] = []
        self.epoch = 0
        self.losses = torch.zeros(0)
        """Validation losses [rows] of the epoch with the lowest mean."""

    def see(self, epoch: int, losses: torch.Tensor) -> None:
        losses = losses.cpu()  # as in the state of a run that another device may resume
        if not self.epoch or losses.mean() < self.losses.mean():
            self.losses = losses
        elif _is_worse(losses - self.losses):
            return
        self.epoch = epoch
        self.values = [weight.detach().clone() for weight in self._weights]

    def is_over(self, epoch: int) -> bool:
        return bool(self.epoch) and epoch - self.epoch >= _PATIENCE

    def restore(self) -> None:
        import torch

        with torch.no_grad():
            for weight, value in zip(self._weights, self.values, strict=True):
                weight.copy_(value)


def _is_worse(differences: torch.Tensor) -> bool:
    """Whether the mean of ``differences`` exceeds its standard error, which counts as 0 if there is only one
    difference."""
    spread = float(differences.std()) if len(differences) > 1 else 0.0
    return float(differences.mean()) > spread / math.sqrt(len(differences))


def _losses_aside(training: Training, batch: int) -> torch.Tensor:
    """Validation losses of the rows at the best temperature, [rows]; without ``losses_by_temperature``, those
    of the batches, [batches]."""
    import torch

    training.model.eval()
    with torch.no_grad():
        parts = [training.aside[at : at + batch] for at in range(0, len(training.aside), batch)]
        if training.losses_by_temperature is None:
            found = torch.stack([training.loss(part) for part in parts])
        else:
            losses_by_temperature = torch.cat([training.losses_by_temperature(part) for part in parts], 1)
            found = losses_by_temperature[int(losses_by_temperature.mean(1).argmin())]
    training.model.train()
    return found


def _batches(
    rows: Sequence[int], lengths: Sequence[int], schedule: Schedule, epoch: int
) -> Iterator[list[int]]:
    """Row indices of each batch, reshuffled in each epoch."""
    shuffle, size = random.Random(f"{schedule.seed} {epoch}"), schedule.batch
    order = list(rows)
    shuffle.shuffle(order)
    bucket = size * _BUCKET
    for at in range(0, len(order), bucket):
        order[at : at + bucket] = sorted(order[at : at + bucket], key=lambda row: lengths[row])
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    shuffle.shuffle(batches)
    yield from batches


def padded(
    rows: Sequence[Sequence[int]], padding: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [rows, longest], padded on the right."""
    import torch

    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), padding)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return tokens.to(device), mask.to(device)


# --- an interrupted run ------------------------------------------------------------------------------


def _save_state(
    state: Path, optimizer: torch.optim.Optimizer, best: BestEpoch, stand: tuple[int, float, float]
) -> None:
    """Saves the state atomically."""
    import torch

    weights = [weight.detach() for group in optimizer.param_groups for weight in group["params"]]
    content = {
        "stand": stand,
        "weights": weights,
        "optimizer": optimizer.state_dict(),
        "best": (best.epoch, best.losses, best.values),
        "random": torch.get_rng_state(),
    }
    device = weights[0].device
    if device.type != CPU:
        content["random_of_device"] = (device.type, torch.get_device_module(device).get_rng_state())
    partial = state.with_name(state.name + ".partial")
    with partial.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())  # or a power cut could leave an empty file under the name
    partial.replace(state)


def _load_state(
    state: Path | None,
    optimizer: torch.optim.Optimizer,
    weights: Sequence[torch.nn.Parameter],
    best: BestEpoch,
) -> tuple[int, float, float]:
    """Restores a saved state. :return: steps done, seconds spent and the last loss; zeros if there is no
    usable state."""
    import torch

    if state is None or not state.is_file():
        return 0, 0.0, 0.0
    try:
        content = torch.load(state, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file raises errors of many kinds
        state.unlink()
        return 0, 0.0, 0.0
    optimizer.load_state_dict(content["optimizer"])
    with torch.no_grad():
        for weight, value in zip(weights, content["weights"], strict=True):
            weight.copy_(value)
    best.epoch, best.losses, best.values = content["best"]
    torch.set_rng_state(content["random"])
    device = weights[0].device
    kind, random_state = content.get("random_of_device", ("", None))
    if device.type == kind:
        torch.get_device_module(device).set_rng_state(random_state)
    step, spent, loss = content["stand"]
    return step, spent, loss
