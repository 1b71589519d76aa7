"""The shared descent on tiny models: when it stops, what it keeps, how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train import loop
from edgeslm_export.train.loop import BestEpoch, Schedule, Training, freeze_lowest, padded, run_training

from edgeslm.errors import ExportError

ROWS = 24
ASIDE = (1, 5, 9, 20)
SCHEDULE = Schedule(epochs=5, batch=4, rate=0.05)
Loss = Callable[[Sequence[int]], torch.Tensor]


class FakeReporter(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.said.append((done, total, what))


class FakeClock:
    """A clock that runs by one second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


class Pupil:
    """A line through points. ``batches`` are those that were learned from, ``watched`` the others, ``modes``
    says of each loss whether the model was in training mode, and ``interrupted_at`` ends the run there."""

    def __init__(self, aside: Sequence[int] = (), interrupted_at: int | None = None) -> None:
        torch.manual_seed(3)
        self.model = torch.nn.Linear(3, 1)
        self._x = torch.randn(ROWS, 3)
        self._y = self._x.sum(1, keepdim=True) + torch.randn(ROWS, 1)
        self._aside, self._interrupted_at = tuple(aside), interrupted_at
        self.batches: list[list[int]] = []
        self.watched: list[list[int]] = []
        self.modes: list[tuple[bool, bool]] = []

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        is_watched = set(rows) <= set(self._aside)
        (self.watched if is_watched else self.batches).append(list(rows))
        self.modes.append((is_watched, self.model.training))
        if len(self.batches) - 1 == self._interrupted_at:
            raise KeyboardInterrupt
        return torch.nn.functional.mse_loss(self.model(self._x[list(rows)]), self._y[list(rows)])

    def training(self, state: Path | None = None) -> Training:
        groups = [(list(self.model.parameters()), SCHEDULE.rate)]
        return Training(self.model, groups, [1] * ROWS, self.loss, self._aside, "teaching the line", state)

    def weights(self) -> list[float]:
        return [float(value) for part in self.model.parameters() for value in part.detach().flatten()]


class Slope:
    """One number that every step of teaching raises; the rows aside are told best where it is ``best``."""

    def __init__(self, best: float, interrupted_at: int | None = None) -> None:
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.model = torch.nn.Module()
        self._best, self._interrupted_at = best, interrupted_at
        self.after: list[float] = []
        self.taught = 0

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        if rows == [0]:
            self.after.append(float(self.number.detach()))
            return (self.number - self._best) ** 2
        if self.taught == self._interrupted_at:
            raise KeyboardInterrupt
        self.taught += 1
        return -self.number

    def training(self, state: Path | None = None) -> Training:
        return Training(self.model, [([self.number], 0.1)], [1] * 5, self.loss, [0], "teaching", state)


UPHILL = Schedule(epochs=20, batch=4, rate=0.1)
"""One step an epoch for a ``Slope``."""


def test_it_stops_when_the_rows_aside_are_told_no_better_and_keeps_the_best_epoch() -> None:
    slope = Slope(best=0.4)
    said = run_training(slope.training(), UPHILL, FakeReporter())
    distances = [abs(number - 0.4) for number in slope.after]
    best = distances.index(min(distances)) + 1
    assert 1 < best < 15
    assert said["best_epoch"] == best
    assert said["epochs"] == best + 2
    assert float(slope.number.detach()) == slope.after[best - 1]


def test_an_epoch_that_is_only_too_sure_is_no_worse() -> None:
    """By the plain loss the first epoch is the best, by that of the best temperature the last."""
    slope = Slope(best=0.0)
    training = replace(
        slope.training(),
        losses_by_temperature=lambda rows: torch.stack([slope.number + 9, 9 - slope.number])[:, None],
    )
    said = run_training(training, replace(UPHILL, epochs=6), FakeReporter())
    assert said["best_epoch"] == said["epochs"] == 6
    assert said["loss_aside"] == pytest.approx(9 - float(slope.number.detach()), abs=1e-3)


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([[1.0, 1.0], [0.9, 0.9], [0.8, 0.8]], 3),
        ([[1.0, 1.0], [0.5, 1.6], [0.6, 1.3]], 3),  # worse, by less than two rows can tell
        ([[1.0, 1.0], [1.1, 1.2], [1.3, 1.1]], 1),
        ([[1.0, 1.0], [1.1, 1.2], [0.9, 1.2]], 3),
        ([[1.0], [1.01]], 1),
        ([[1.0], [1.0]], 2),
    ],
)
def test_the_last_epoch_that_was_no_worse_is_the_best(losses: list[list[float]], best: int) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1))]
    seen = BestEpoch(weights)
    for epoch, of_rows in enumerate(losses, 1):
        with torch.no_grad():
            weights[0].fill_(epoch)
        seen.see(epoch, torch.tensor(of_rows))
    seen.restore()
    assert seen.epoch == best == float(weights[0].detach())
    assert float(seen.losses.mean()) == pytest.approx(min(sum(row) / len(row) for row in losses))


def test_without_rows_aside_all_epochs_are_run() -> None:
    pupil, reporter = Pupil(), FakeReporter()
    said = run_training(pupil.training(), SCHEDULE, reporter)
    assert (said["epochs"], said["best_epoch"]) == (5, 5)
    assert reporter.said[-1] == (30, 30, "teaching the line, epoch 5")


def test_what_is_reported_falls() -> None:
    pupil = Pupil()
    before = float(pupil.loss(range(ROWS)).detach())
    said = run_training(pupil.training(), replace(SCHEDULE, epochs=20), FakeReporter())
    assert float(pupil.loss(range(ROWS)).detach()) < before / 2
    assert 0 < said["loss"] < before


# --- batches -----------------------------------------------------------------------------------------


def test_each_epoch_takes_all_rows_but_those_aside_once() -> None:
    pupil = Pupil(ASIDE)
    run_training(pupil.training(), replace(SCHEDULE, epochs=2), FakeReporter())
    epochs = pupil.batches[:5], pupil.batches[5:]
    taught = [row for row in range(ROWS) if row not in ASIDE]
    assert [sorted(row for batch in epoch for row in batch) for epoch in epochs] == [taught, taught]
    assert epochs[0] != epochs[1]
    assert [row for part in pupil.watched for row in part] == [*ASIDE, *ASIDE]


def test_the_last_batch_may_be_smaller() -> None:
    pupil = Pupil()
    run_training(pupil.training(), replace(SCHEDULE, epochs=1, batch=10), FakeReporter())
    assert sorted(map(len, pupil.batches)) == [4, 10, 10]


def test_the_seed_alone_sets_the_order() -> None:
    first, again, other = Pupil(), Pupil(), Pupil()
    for pupil, seed in ((first, 0), (again, 0), (other, 1)):
        run_training(pupil.training(), replace(SCHEDULE, epochs=2, seed=seed), FakeReporter())
    assert first.batches == again.batches != other.batches
    assert first.weights() == again.weights()


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = [row * 7 % 64 for row in range(64)]
    pupil = Pupil()
    spans = []

    def loss(rows: Sequence[int]) -> torch.Tensor:
        of_batch = [lengths[row] for row in rows]
        spans.append(max(of_batch) - min(of_batch))
        return pupil.model(torch.ones(1, 3)).sum()

    training = replace(pupil.training(), lengths=lengths, loss=loss)
    run_training(training, replace(SCHEDULE, epochs=1), FakeReporter())
    assert spans == [3] * 16


def test_short_rows_are_filled_at_their_end() -> None:
    tokens, mask = padded([[5, 6, 7], [8]], padding=9)
    assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_rows_aside_are_watched_out_of_training_mode() -> None:
    pupil = Pupil(ASIDE)
    run_training(pupil.training(), replace(SCHEDULE, epochs=1), FakeReporter())
    assert set(pupil.modes) == {(False, True), (True, False)}


# --- an interrupted run ------------------------------------------------------------------------------


@pytest.mark.parametrize("aside", [(), ASIDE], ids=["all rows", "rows aside"])
@pytest.mark.parametrize("noted_s", [0.0, loop.NOTED_S], ids=["each step", "each epoch"])
@pytest.mark.parametrize("at", [7, 12])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, aside: Sequence[int], at: int, noted_s: float
) -> None:
    whole = Pupil(aside)
    expected = run_training(whole.training(), SCHEDULE, FakeReporter())
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        training = replace(Pupil(aside, interrupted_at=at).training(state), noted_s=noted_s)
        run_training(training, SCHEDULE, FakeReporter())
    again = Pupil(aside)
    assert run_training(again.training(state), SCHEDULE, FakeReporter()) == expected
    assert again.weights() == whole.weights()
    assert 0 < len(again.batches) < len(whole.batches)
    if noted_s == 0:
        assert again.batches == whole.batches[at:], "no step is taken twice"


def test_the_best_epoch_is_remembered_over_an_interruption(tmp_path: Path) -> None:
    whole = Slope(best=0.4)
    expected = run_training(whole.training(), UPHILL, FakeReporter())
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):  # in the first epoch after the best one
        slope = Slope(best=0.4, interrupted_at=expected["best_epoch"] + 1)
        run_training(slope.training(state), UPHILL, FakeReporter())
    again = Slope(best=0.4)
    assert run_training(again.training(state), UPHILL, FakeReporter()) == expected
    assert float(again.number.detach()) == float(whole.number.detach())


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    whole, again = Pupil(), Pupil()
    expected = run_training(whole.training(tmp_path / "state.pt"), SCHEDULE, FakeReporter())
    assert run_training(again.training(tmp_path / "state.pt"), SCHEDULE, FakeReporter()) == expected
    assert again.batches == []
    assert again.weights() == whole.weights()


def test_a_damaged_state_is_begun_anew(tmp_path: Path) -> None:
    """After a power cut; the sentence of a library would be all that its user sees, each time."""
    whole, again, state = Pupil(), Pupil(), tmp_path / "state.pt"
    expected = run_training(whole.training(state), SCHEDULE, FakeReporter())
    state.write_bytes(state.read_bytes()[:2000])
    assert run_training(again.training(state), SCHEDULE, FakeReporter()) == expected
    assert again.weights() == whole.weights()


def test_what_a_trial_found_limits_a_schedule() -> None:
    assert SCHEDULE.limited(3, 60) == replace(SCHEDULE, epochs=3, seconds=60)
    assert SCHEDULE.limited(0, 0) == SCHEDULE


# --- time --------------------------------------------------------------------------------------------


def test_a_time_too_short_for_half_an_epoch_is_refused() -> None:
    sentence = (
        "teaching the line finished 0 of 6 batches in its time, less than half; allow more --minutes, or "
        "take a faster method."
    )
    with pytest.raises(ExportError, match=sentence):
        run_training(Pupil().training(), replace(SCHEDULE, seconds=1e-9), FakeReporter())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "time", FakeClock())


@pytest.mark.usefixtures("clock")
def test_a_run_whose_time_ends_amid_an_epoch_keeps_what_it_learned() -> None:
    pupil = Pupil()
    said = run_training(pupil.training(), replace(SCHEDULE, seconds=10), FakeReporter())
    assert said["epochs"] == 1.5  # nine batches of six
    assert len(pupil.batches) == 9


@pytest.mark.usefixtures("clock")
def test_a_run_whose_time_ends_before_an_epoch_does_keeps_what_it_learned() -> None:
    pupil = Pupil()
    said = run_training(pupil.training(), replace(SCHEDULE, seconds=5), FakeReporter())
    assert 0.5 <= said["epochs"] < 1
    assert said["best_epoch"] == 0


@pytest.mark.usefixtures("clock")
def test_rates_follow_the_clock() -> None:
    """So a run that is cut short has cooled down all the same."""
    slope = Slope(best=9.0)
    run_training(slope.training(), replace(UPHILL, epochs=100, seconds=20), FakeReporter())
    steps = [after - before for before, after in zip(slope.after, slope.after[1:], strict=False)]
    assert steps[-1] < max(steps) / 5


@pytest.mark.usefixtures("clock")
def test_the_time_before_an_interruption_counts(tmp_path: Path) -> None:
    schedule, state = replace(SCHEDULE, seconds=14), tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run_training(Pupil(interrupted_at=6).training(state), schedule, FakeReporter())
    again = Pupil()
    run_training(again.training(state), schedule, FakeReporter())
    assert 0 < len(again.batches) < 8


# --- numbers that aren't finite ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_refused() -> None:
    pupil = Pupil()
    training = replace(pupil.training(), loss=lambda rows: pupil.loss(rows) * float("nan"))
    with pytest.raises(ExportError, match="teaching the line gave numbers that aren't finite"):
        run_training(training, SCHEDULE, FakeReporter())


def test_rows_aside_that_are_told_by_no_finite_number_are_refused() -> None:
    """The last step may be the one that breaks it, and nothing is kept then."""
    pupil = Pupil(ASIDE)

    def loss(rows: Sequence[int]) -> torch.Tensor:
        return pupil.loss(rows) * (float("nan") if set(rows) <= set(ASIDE) else 1.0)

    with pytest.raises(ExportError, match="aren't finite"):
        run_training(replace(pupil.training(), loss=loss), replace(SCHEDULE, epochs=1), FakeReporter())


# --- several passes a batch --------------------------------------------------------------------------


def test_a_batch_in_several_passes_teaches_what_it_teaches_in_one() -> None:
    """32 long messages at once took 18 GB."""
    whole, parts = Pupil(), Pupil()
    expected = run_training(whole.training(), SCHEDULE, FakeReporter())
    found = run_training(replace(parts.training(), most_tokens=2), SCHEDULE, FakeReporter())
    assert {len(batch) for batch in whole.batches} == {4}
    assert {len(batch) for batch in parts.batches} == {2}
    assert parts.weights() == pytest.approx(whole.weights(), abs=1e-5)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_pass_has_no_more_tokens_than_allowed_unless_one_row_has() -> None:
    lengths = [5, 90, 7, 300, 6, 8, 100]
    parts = loop.passes(range(7), lengths, 200)
    assert sorted(row for part in parts for row in part) == list(range(7))
    assert parts == [[0, 4, 2, 5], [1, 6], [3]]
    assert loop.passes([1, 2], lengths, None) == [[1, 2]]


@pytest.mark.parametrize("name", ["bge", "modernbert"])
def test_the_lowest_layers_stay_as_they_are_and_half_of_few_learns(encoders: Path, name: str) -> None:
    model = transformers.AutoModel.from_pretrained(encoders / name)
    freeze_lowest(model)
    frozen = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    lowest = [key for key, _ in model.named_parameters() if ".0." in key]
    number = model.config.num_hidden_layers - 1
    highest = [key for key, _ in model.named_parameters() if f".{number}." in key]
    assert lowest and highest
    assert frozen.issuperset(lowest) and frozen.isdisjoint(highest)
    assert not model.get_input_embeddings().weight.requires_grad
