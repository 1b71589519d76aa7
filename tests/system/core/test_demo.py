"""``edgeslm demo`` from start to end, in its real time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

WAIT_S = 300.0


def demo(starter: Path, *options: str) -> list[str]:
    bundle = str(starter / "smollm2-135m-int4")
    return [sys.executable, "-m", "edgeslm", "demo", "--bundle", bundle, *options]


def counted(said: str) -> dict[str, tuple[int, int]]:
    """The summary: what was done, and ``right of all``."""
    rows = re.findall(r"^  (\S.{25})(\d+) of (\d+) right", said.partition("Counted in this run")[2], re.M)
    return {what.strip(): (int(right), int(of)) for what, right, of in rows}


def test_the_demo_ends_by_itself_with_status_0_and_a_summary(starter: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(demo(starter), capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    rows = counted(done.stdout)
    assert rows["spam, before teaching"][0] < rows["spam, after 20 labels"][0]
    right, of = rows["spam, more messages"]
    assert of == 500 and right > 435  # always saying ham
    assert rows["addresses in log lines"][1] == 6
    assert rows["questions on documents"] == (5, 5)
    assert "Condensate is drained every Friday. [compressor.md, " in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_short_demo_shows_some_of_everything(starter: Path) -> None:
    done = subprocess.run(demo(starter, "--short"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {what: of for what, (_, of) in counted(done.stdout).items()} == {
        "spam, before teaching": 5,
        "spam, after 20 labels": 5,
        "spam, more messages": 20,
        "addresses in log lines": 2,
        "questions on documents": 2,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stays_with_a_console_until_it_is_ended(starter: Path, tmp_path: Path, number: int) -> None:
    file = tmp_path / "said"
    with file.open("w") as stream:
        process = subprocess.Popen(
            demo(starter, "--short", "--stay"),
            stdout=stream,
            stderr=stream,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    give_up_at = time.monotonic() + WAIT_S
    try:
        while (found := re.search(r"console +(http://\S+) +token \S{16}", file.read_text())) is None:
            assert process.poll() is None and time.monotonic() < give_up_at, file.read_text()
            time.sleep(0.1)
        with urllib.request.urlopen(found[1], timeout=30) as page:
            assert page.status == 200 and b"edgeslm" in page.read()
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert file.read_text().endswith("The node and the broker end.\n")
    assert list(tmp_path.iterdir()) == [file]
