"""What is shown of long work where there is no terminal; with one, tqdm draws."""

from __future__ import annotations

import time

import pytest
from edgeslm_export.cli.progress import Bar


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar() as bar:
        bar(1, 2, "reading")
        bar(2, 2, "reading")
    assert capsys.readouterr().err == ""


def test_long_work_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Bar() as bar:
        for second in range(0, 200, 10):
            now = float(second)
            bar(second, 200, "teaching, epoch 1")
    assert capsys.readouterr().err.splitlines() == [
        "teaching, epoch 1: 30%",
        "teaching, epoch 1: 60%",
        "teaching, epoch 1: 90%",
    ]


def test_work_of_unknown_size_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(line_s=0) as bar:
        bar(0, 0, "looking")
    assert capsys.readouterr().err == "looking: 0%\n"
