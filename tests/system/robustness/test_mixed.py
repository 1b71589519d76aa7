"""The short form of ``benchmarks/robustness/mixed.py``: each of 100 requests, 20 bad, gets one result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e


def test_each_of_100_mixed_requests_gets_one_result_with_the_right_status(starter: Path) -> None:
    script = ROOT / "benchmarks/robustness/mixed.py"
    done = subprocess.run(
        [sys.executable, str(script), "--starter", str(starter), "--requests", "100", "--bad", "22"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["requests"], figures["bad"], figures["results"], figures["right"]) == (100, 22, 100, 100)
    assert figures["streams"] == figures["whole_streams"] > 0
    codes = {"invalid_request", "unknown_task", "too_large", "too_long", "expired"}
    assert codes <= figures["statuses"].keys()
