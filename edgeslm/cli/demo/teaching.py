"""Training for the demo: runs ``edgeslm-export tune`` on a few labelled messages."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from edgeslm.cli.demo.material import LabelledMessage
from edgeslm.config.extras import install_line
from edgeslm.errors import EdgeslmError


@dataclass(frozen=True, slots=True)
class TrainedTask:
    """A trained task: head folder, number of training rows, training time, cross-validated accuracy."""

    task: str
    folder: Path
    rows: int
    seconds: float
    accuracy: float


def teach(
    folder: Path, task: str, labels: Mapping[str, str], rows: Sequence[LabelledMessage], encoder: Path
) -> TrainedTask:
    """Trains ``task`` on ``rows`` and stores its head below ``folder``.

    :raises EdgeslmError: training isn't installed here, or failed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise EdgeslmError(f"the demo trains a task, which needs an extra: {install_line('heads')}")
    out = folder / "learned" / task
    out.parent.mkdir(exist_ok=True)
    description = folder / f"{task}.yaml"
    description.write_text(yaml.safe_dump({"name": task, "kind": "classify", "labels": dict(labels)}))
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows))
    command = [sys.executable, "-P", "-m", "edgeslm_export", "tune", str(description), str(data), str(out)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--encoder", str(encoder), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EdgeslmError(f"training {task} failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    report = json.loads(done.stdout.strip().rpartition("\n")[2])
    return TrainedTask(task, out, len(rows), time.monotonic() - started, float(report["accuracy"]))
