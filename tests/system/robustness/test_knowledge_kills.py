"""The short form of ``benchmarks/lib/knowledge_kills.py``: a few kills, and every document is whole."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import ROOT


def test_a_kill_leaves_whole_documents() -> None:
    script = ROOT / "benchmarks/lib/knowledge_kills.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "4", "--files", "25", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["killed"], figures["not_whole"]) == (4, 0)
