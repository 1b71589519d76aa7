"""Label calibration: which corrections a bias is fitted to, without a model and without the fit's job."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeslm.bundle.calibration import LabelledBias
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Output
from edgeslm.messages import Request
from edgeslm.serving import label_calibration
from edgeslm.serving.label_calibration import LabelCalibration
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from edgeslm.tasks.classify import Classify, LabelSample

SECTION = {"kind": "classify", "model": "small", "labels": {"normal": "", "critical": ""}}
BIASES = {"normal": 0.9, "critical": 0.1}


class Unit:
    """A task at work and its calibration; the model always calls messages normal, with 0.75.

    ``fits`` are the numbers of each label in the rows of each fit, whose bias helps.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fits: list[Counter[str]] = []
        self.store = FeedbackStore(folder)
        self.task = Classify("triage", TaskSection.model_validate(SECTION, strict=False))
        config = SimpleNamespace(node="hall", state_dir=folder, journal=SimpleNamespace(key_file=None))
        bundles = SimpleNamespace(bundle=lambda _: SimpleNamespace(digest="sha256:1"))
        binding = SimpleNamespace(task=self.task)
        deployment = SimpleNamespace(bindings={"triage": (binding,)}, config=config, models=bundles)
        service: Any = SimpleNamespace(deployment=deployment, tasks={"triage": self.task})
        self._calibration = LabelCalibration(service)
        monkeypatch.setattr(LabelCalibration, "_fit", self._fit)
        monkeypatch.setattr(label_calibration, "AGAIN_S", 0.0)

    async def _fit(self, task: Classify, right: Mapping[bytes, str], sample: LabelSample) -> LabelledBias:
        self.fits.append(Counter(right.get(mark, label) for mark, (_, label) in sample.kept.items()))
        return LabelledBias(BIASES, len(sample.kept), 0, len(sample.kept))

    def look(self) -> LabelledBias | None:
        asyncio.run(self._calibration._look("triage"))
        return self.task.fitted

    def serve(self, texts: Iterable[str]) -> None:
        for text in texts:
            asyncio.run(self.task.run(Request("triage", text, "1", ""), _ask, None))

    def correct(self, texts: Iterable[str], label: str = "critical", **more: Any) -> None:
        for text in texts:
            self.store.keep(Correction("triage", text, label, **more))

    def accept(self, *, use: bool = True) -> None:
        self.store.decide("triage", self.store.rows("triage"), use=use)


async def _ask(call: Call, on_chunk: Any = None) -> Output:
    return Output(probabilities=(0.75, 0.25))


Make = Callable[[], Unit]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the unit as it is after a start of the node."""

    def start() -> Unit:
        unit = Unit(tmp_path, monkeypatch)
        unit.look()
        return unit

    return start


def texts(count: int, start: int = 0) -> list[str]:
    return [f"note {number}" for number in range(start, count)]


def test_what_nobody_corrected_counts_as_right(make: Make) -> None:
    unit = make()
    unit.serve(texts(40))
    unit.correct(texts(9))
    assert unit.look() is None and not unit.fits
    unit.correct(["note 9", "of no message here"])
    bias = unit.look()
    assert bias is not None and unit.fits == [{"critical": 10, "normal": 30}]


def test_what_nobody_accepted_changes_nothing(make: Make) -> None:
    """Neither labels that were given here, nor what counts as right."""
    unit = make()
    unit.serve(texts(40))
    unit.correct(texts(12))
    first = unit.look()
    assert first is not None
    unit.correct(texts(40), "normal", by="a stranger")
    unit.correct([f"{'x' * 4000} {number}" for number in range(150)], "normal", by="a stranger")
    assert unit.look() == first and len(unit.fits) == 1
    unit.accept(use=False)
    assert unit.look() == first and len(unit.fits) == 1


def test_what_nobody_accepted_leaves_messages_in_the_sample(make: Make) -> None:
    unit = make()
    unit.serve(texts(40))
    unit.correct(texts(12), by="panel")
    unit.accept()
    unit.correct(texts(40, 12), "normal", by="a stranger")
    unit.look()
    assert unit.fits == [{"critical": 12, "normal": 28}]


def test_labels_that_were_taken_unread_say_nothing(make: Make) -> None:
    unit = make()
    unit.serve(texts(40))
    unit.correct(texts(30), proposed="small")
    assert unit.look() is None and not unit.fits
    unit.correct(texts(40, 28))
    assert unit.look() is not None and unit.fits == [{"critical": 12, "normal": 28}]


def test_a_bias_is_dropped_with_its_corrections(make: Make) -> None:
    unit = make()
    unit.serve(texts(40))
    unit.correct(texts(12))
    assert unit.look() is not None
    unit.store.file("triage").unlink()
    assert unit.look() is None and make().look() is None


def test_a_smaller_sample_after_a_restart_replaces_no_bias(make: Make) -> None:
    unit = make()
    unit.serve(texts(60))
    unit.correct(texts(20), by="panel")
    unit.accept()
    first = unit.look()
    assert first is not None and first.rows == 60
    again = make()
    again.serve(texts(45))
    again.correct(texts(25, 20), by="panel")
    again.accept()
    assert again.look() == first and not again.fits
    again.serve(texts(60, 45))
    assert again.look() is not None and again.fits[0].total() == 60
