"""``edgeslm demo`` from start to end, in its real time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_the_demo_ends_by_itself_with_status_0_and_a_summary(starter: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeslm", "demo", "--bundle", str(starter / "smollm2-135m-int4")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    right, of = map(int, re.findall(r"(\d+) of (\d+) right \(0\.\d+\) at \d+ messages/s", done.stdout)[0])
    assert of == 500 and right > 450  # the majority baseline is about 430
    for line in ("spam (learned head)", "triage (learned head)", "login (decoder", "manual (decoder"):
        assert re.search(rf"^  {re.escape(line)}.* \d+ of \d+ ", done.stdout, re.MULTILINE), line
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_short_demo_shows_some_of_everything(starter: Path) -> None:
    bundle = str(starter / "smollm2-135m-int4")
    command = [sys.executable, "-m", "edgeslm", "demo", "--short", "--bundle", bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for line, of in (
        ("spam (learned head)", 20),
        ("triage (learned head)", 3),
        ("login (decoder", 2),
        ("manual (decoder", 2),
    ):
        assert re.search(rf"^  {re.escape(line)}.* \d+ of {of} ", done.stdout, re.MULTILINE), line
