"""Golden answers of a real export: what they hold, that they repeat, and that numbers are needed for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.prepack import golden
from edgeslm.engine.prepack.golden import FILE, TEXTS, Golden, GoldenAnswer, load_golden, record_answers
from edgeslm.engine.prepack.trial import test_itself as pass_trial
from edgeslm.errors import BundleError

pytestmark = pytest.mark.export


def test_a_bundle_says_what_it_said(int4_base: Path, tmp_path: Path) -> None:
    bundle = load_bundle(int4_base)
    answers = load_golden(bundle)
    assert answers is not None
    assert len(answers.answers) == len(TEXTS) == 8
    assert (int4_base / FILE).stat().st_size < 10_000
    assert all(abs(apart) < 0.001 for apart in pass_trial(bundle, "model.onnx"))
    copy = Path(shutil.copytree(int4_base, tmp_path / "copy"))
    (copy / FILE).unlink()
    record_answers(copy)
    assert (copy / FILE).read_bytes() == (int4_base / FILE).read_bytes()


def test_numbers_are_needed(int4_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(model: Any, prompts: Any) -> Golden:
        return Golden(answers=(GoldenAnswer(ids=(1, 2), tokens=(1,), log_probs=(float("nan"),)),))

    monkeypatch.setattr(golden, "record", record)
    copy = Path(shutil.copytree(int4_base, tmp_path / "copy"))
    with pytest.raises(BundleError, match="numbers that aren't finite"):
        record_answers(copy)
