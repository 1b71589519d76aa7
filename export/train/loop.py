"""Gradient descent as all that is taught shares it: AdamW, a warm-up and a linear decay.

The optimizer is that of Loshchilov and Hutter (2019). It stops early when rows that are kept aside are no
longer told better (Prechelt 1998), and goes on where an interrupted run stood. With a time budget the decay
follows the clock, so that a run that is cut short has cooled down all the same. Knows rows by their number
and no model.
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

from edgeslm_export.jobs.subprocess_job import Reporter

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch

_WARM_UP = 0.1
_DECAY = 0.01
_MOST_NORM = 1.0
_BUCKET = 16
"""Batches whose rows are sorted by length together, so that little is computed on padding."""
_PATIENCE = 2
"""Epochs in a row that may be worse than the best before."""
_LEAST = 0.5
"""Of the rows must have been learned from when the time is over: the rate has come down by then, and what was
learned from most of them is worth keeping."""
_SPARED = 2
"""Layers, at most half of them."""
_HALVES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of /proc/cpuinfo, on x86 and ARM."""
NOTED_S = 300.0
"""So much of a run is lost at most where it is interrupted; what is kept of it has some hundred megabytes."""
TEMPERATURES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""By which logits are divided before rows aside are judged; see ``Course.tempered``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. ``seconds`` 0 means as long as the epochs take."""

    epochs: int
    batch: int
    rate: float
    seconds: float = 0.0
    seed: int = 0

    def limited(self, epochs: int, seconds: float) -> Schedule:
        """The same in ``seconds``, and in the ``epochs`` that a trial found enough; 0: it found none."""
        return replace(self, epochs=epochs or self.epochs, seconds=seconds)


class BatchLoss(Protocol):
    """What rows, by their number, are wrong by."""

    def __call__(self, batch: Sequence[int], /) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Course:
    """What is taught: ``parameters`` with their rates, and what a batch of rows is wrong by.

    :param model: what is put into training mode, and out of it where rows are watched.
    :param lengths: tokens of each row. :param loss: of rows by their number, a mean over them.
    :param aside: rows that are not learned from but watched; none: all epochs are run.
    :param what: the subject in words, for progress and errors.
    :param state: where an interrupted run is kept; one that is there is gone on with.
    :param tempered: of rows, the loss of each at each of ``TEMPERATURES`` [temperatures, rows], of which the
        best temperature counts. What is taught grows too sure of itself long before it tells rows worse (Guo
        et al. 2017, section 3), and how sure it may be is fitted afterwards. Without it ``loss`` counts.
    """

    model: torch.nn.Module
    parameters: Sequence[tuple[Sequence[torch.nn.Parameter], float]]
    lengths: Sequence[int]
    loss: BatchLoss
    aside: Sequence[int]
    what: str
    state: Path | None = None
    tempered: BatchLoss | None = None
    most_tokens: int | None = None
    """Of a pass, padding included, which memory is for: a batch that has more is learned from in several."""


def descend(course: Course, schedule: Schedule, reporter: Reporter) -> dict[str, Any]:
    """Teaches; the parameters are those of the best epoch when it returns, or what it has cooled down to
    where the time ended within an epoch.

    :return: ``epochs`` that were run, the ``best_epoch`` (from 1; 0 if the clock ended it, which then has
        cooled down), the last batch's ``loss`` and that of the rows aside in the best epoch.
    :raises ExportError: the loss isn't finite any more, or the time was too short for half of an epoch.
    """
    import torch

    kept_aside = set(course.aside)
    rows = [row for row in range(len(course.lengths)) if row not in kept_aside]
    if not rows:
        raise ExportError(f"{course.what} has no rows to learn from: all are too long.")
    groups: list[dict[str, Any]] = [
        {"params": list(parameters), "lr": rate} for parameters, rate in course.parameters
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    weights = [weight for group in groups for weight in group["params"]]
    steps_an_epoch = -(-len(rows) // schedule.batch)
    steps = steps_an_epoch * schedule.epochs
    best = _Best(weights)
    step, spent, loss = _take_up(course.state, optimizer, weights, best)
    epoch, noted = step // steps_an_epoch, time.monotonic()
    started = noted - spent
    course.model.train()
    while epoch < schedule.epochs and not best.is_over(epoch):
        for batch in islice(_batches(rows, course.lengths, schedule, epoch), step % steps_an_epoch, None):
            done = step / steps
            if schedule.seconds:
                done = max(done, (time.monotonic() - started) / schedule.seconds)
            if done >= 1:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (done + 1 / steps) / _WARM_UP) * (1 - done)
            optimizer.zero_grad()
            loss = 0.0
            for part in _passes(batch, course.lengths, course.most_tokens):
                value = course.loss(part) * (len(part) / len(batch))
                _check_finite(float(value.detach()), course.what)
                value.backward()
                loss += float(value.detach())
            torch.nn.utils.clip_grad_norm_(weights, _MOST_NORM)
            optimizer.step()
            step += 1
            reporter.progress(step, steps, f"{course.what}, epoch {epoch + 1}")
            is_within = step < (epoch + 1) * steps_an_epoch
            if course.state is not None and is_within and time.monotonic() - noted >= NOTED_S:
                noted = time.monotonic()
                _put_down(course.state, optimizer, best, (step, noted - started, loss))
        if step < (epoch + 1) * steps_an_epoch:
            break
        epoch += 1
        if course.aside:
            aside = _losses_aside(course, schedule.batch)
            _check_finite(float(aside.mean()), course.what)
            best.see(epoch, aside)
        if course.state is not None:
            noted = time.monotonic()
            _put_down(course.state, optimizer, best, (step, noted - started, loss))
    if step < _LEAST * steps_an_epoch:
        raise ExportError(
            f"{course.what} got through {step} of {steps_an_epoch} batches in its time, half of them being "
            "the least; allow more --minutes, or take a faster method."
        )
    is_whole = step == epoch * steps_an_epoch
    if course.aside and is_whole:
        best.restore()
    return {
        "epochs": round(step / steps_an_epoch, 2),
        "best_epoch": (best.epoch or epoch) if is_whole else 0,
        "loss": round(loss, 4),
        **({"loss_aside": round(float(best.losses.mean()), 4)} if best.epoch else {}),
    }


def spare_lowest(model: Any) -> None:
    """Leaves an encoder's embeddings and its lowest layers as they are: what words mean isn't learned from
    few questions, and a third of the time is saved."""
    import torch

    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(stacks, key=len, default=())
    for part in (model.get_input_embeddings(), *layers[: min(_SPARED, len(layers) // 2)]):
        part.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            # Rows are seen a few times only, and drawing what to drop takes a fifth of the time.
            module.p = 0.0


def has_halves() -> bool:
    """Whether this processor multiplies in bfloat16, three times as fast; others only emulate it."""
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not _HALVES.isdisjoint(known.split())


def repeatable(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same each time: a report is a part of its bundle, which has to be."""
    return {key: value for key, value in figures.items() if key != "peak_rss"}


def _passes(batch: Sequence[int], lengths: Sequence[int], most_tokens: int | None) -> list[Sequence[int]]:
    """The batch in parts of at most so many tokens, each row as long as the longest of its part; one row at
    least."""
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


class _Best:
    """The parameters after the last epoch in which the rows kept aside were told no worse than ever.

    Worse by more than the standard error of the difference, that is: few rows can't tell epochs apart, and
    more of them do better by rows that weren't kept aside.
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter]) -> None:
        import torch

        self._weights = weights
        self.values: list[torch.Tensor] = []
        self.epoch = 0
        self.losses = torch.zeros(0)
        """[rows], lowest in their mean of all epochs."""

    def see(self, epoch: int, losses: torch.Tensor) -> None:
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
    """Whether their mean is above 0 by more than its standard error; of one, whether it is above 0."""
    spread = float(differences.std()) if len(differences) > 1 else 0.0
    return float(differences.mean()) > spread / math.sqrt(len(differences))


def _losses_aside(course: Course, batch: int) -> torch.Tensor:
    """[rows aside] at the best temperature, or [batches of them] where a mean is all that is known."""
    import torch

    course.model.eval()
    with torch.no_grad():
        parts = [course.aside[at : at + batch] for at in range(0, len(course.aside), batch)]
        if course.tempered is None:
            found = torch.stack([course.loss(part) for part in parts])
        else:
            tempered = torch.cat([course.tempered(part) for part in parts], 1)
            found = tempered[int(tempered.mean(1).argmin())]
    course.model.train()
    return found


def _batches(
    rows: Sequence[int], lengths: Sequence[int], schedule: Schedule, epoch: int
) -> Iterator[list[int]]:
    """Row numbers of one batch after the other, in another order each epoch."""
    shuffle, size = random.Random(f"{schedule.seed} {epoch}"), schedule.batch
    order = list(rows)
    shuffle.shuffle(order)
    bucket = size * _BUCKET
    for at in range(0, len(order), bucket):
        order[at : at + bucket] = sorted(order[at : at + bucket], key=lambda row: lengths[row])
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    shuffle.shuffle(batches)
    yield from batches


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [rows, longest]; short rows are filled at their end."""
    import torch

    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), padding)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return tokens, mask


# --- an interrupted run ------------------------------------------------------------------------------


def _put_down(
    state: Path, optimizer: torch.optim.Optimizer, best: _Best, stand: tuple[int, float, float]
) -> None:
    """In one step: a run that ends while it writes leaves the state before."""
    import torch

    weights = [weight.detach() for group in optimizer.param_groups for weight in group["params"]]
    content = {
        "stand": stand,
        "weights": weights,
        "optimizer": optimizer.state_dict(),
        "best": (best.epoch, best.losses, best.values),
        "random": torch.get_rng_state(),
    }
    partial = state.with_name(state.name + ".partial")
    with partial.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())  # or a power cut may leave a name without its bytes
    partial.replace(state)


def _take_up(
    state: Path | None,
    optimizer: torch.optim.Optimizer,
    weights: Sequence[torch.nn.Parameter],
    best: _Best,
) -> tuple[int, float, float]:
    """:return: steps that were taken, the seconds that they took and the last loss; zeros for a new run, and
    for one whose state is damaged."""
    import torch

    if state is None or not state.is_file():
        return 0, 0.0, 0.0
    try:
        content = torch.load(state, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file gives errors of many kinds; what it held is found again
        state.unlink()
        return 0, 0.0, 0.0
    optimizer.load_state_dict(content["optimizer"])
    with torch.no_grad():
        for weight, value in zip(weights, content["weights"], strict=True):
            weight.copy_(value)
    best.epoch, best.losses, best.values = content["best"]
    torch.set_rng_state(content["random"])
    step, spent, loss = content["stand"]
    return step, spent, loss
