"""The report card of the starter model, on a few labelled rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_starter_model_on_a_few_rows(starter: Path, tmp_path: Path) -> None:
    rows = [
        ("Fire in hall 4!", "critical"),
        ("All is quiet.", "normal"),
        ("Pump 3 smells of smoke.", "critical"),
    ]
    data, task = tmp_path / "rows.jsonl", tmp_path / "triage.yaml"
    data.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    task.write_text(
        "name: triage\nkind: classify\ninstruction: How urgent is this message?\n"
        "labels: {normal: all is well, critical: stop now}\n"
    )
    bundle = str(starter / "smollm2-135m-int4")
    command = [sys.executable, "-m", "edgeslm_export", "evaluate", bundle, str(data)]
    done = subprocess.run([*command, "--task", str(task)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["task"] == {"name": "triage", "kind": "classify"}
    assert report["rows"] == 3
    assert report["interval"][0] <= report["accuracy"] <= report["interval"][1]
    assert set(report["labels"]) == {"normal", "critical"}
    assert report["decode_tps"] > 0
    assert "majority baseline    0.667" in done.stdout.splitlines()
