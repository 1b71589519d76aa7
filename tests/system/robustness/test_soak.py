"""The short form of ``benchmarks/robustness/soak.py``: no request lost, no descriptor or thread left over.

Of memory it says nothing: a few hundred requests are all warm-up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def test_nothing_is_left_over_after_hundreds_of_requests_and_a_cut(tmp_path: Path) -> None:
    script = ROOT / "benchmarks/robustness/soak.py"
    options = ["--requests", "400", "--steps", "2", "--cuts", "2", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])["fake"]
    assert run["steady"] == {"descriptors": True, "threads": True}
    assert (sum(run["statuses"].values()), run["lost"]) == (400, 0)
    assert {"ok", "invalid_request", "cancelled"} <= run["statuses"].keys()
    assert run["twice"] > 0, "repeats and what a cut left open come a second time"
