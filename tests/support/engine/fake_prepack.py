"""Prepacking that takes a moment: onnxruntime writes small files, and the trial passes or fails as told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from edgeslm.bundle.manifest import Bundle
from edgeslm.engine.prepack import prepare, trial
from edgeslm.engine.worker.prepared import WEIGHTS
from edgeslm.errors import BundleError


class FakePrepack:
    """The trial, and what onnxruntime writes."""

    def __init__(self) -> None:
        self.write: Callable[[Path, Path], object] = lambda graph, folder: None
        """Called with the graph and the folder of what was written."""
        self.fails = ""
        """``computes`` or ``answers``."""
        self.scores = True
        self.seconds = {1: trial.Seconds(0.8, 1.0), 2: trial.Seconds(0.4, 0.5)}
        self.fastest = trial.fastest

    def session(self, graph: str, options: ort.SessionOptions, providers: object) -> None:
        """In place of ``onnxruntime.InferenceSession``."""
        file = Path(options.optimized_model_filepath)
        for path in (file, file.with_name(WEIGHTS)):
            path.write_bytes(b"x")
        self.write(Path(graph), file.parent)

    def check_same(self, bundle: Bundle, graph: str, prepacked: str) -> None:
        self._check("computes")

    def test_itself(self, bundle: Bundle, prepacked: str) -> tuple[float, ...]:
        self._check("answers")
        return 0.001, 0.004

    def has_same_scores(self, bundle: Bundle, prepacked: Path) -> bool:
        return self.scores

    def time_threads(self, bundle: Bundle, prepacked: str) -> dict[int, trial.Seconds]:
        return self.seconds

    def _check(self, what: str) -> None:
        if self.fails == what:
            raise BundleError("it computes other numbers")


@pytest.fixture
def fake_prepack(monkeypatch: pytest.MonkeyPatch) -> FakePrepack:
    fake = FakePrepack()
    monkeypatch.setattr(prepare, "trial", fake)
    monkeypatch.setattr(ort, "InferenceSession", fake.session)
    return fake
